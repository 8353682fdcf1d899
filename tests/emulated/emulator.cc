#include <cuda_runtime.h>

#include <assert.h>
#include <stdlib.h>
#include <ucontext.h>

#include <deque>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulated {

unsigned linear;
void *shared;

namespace {

enum { STACK_SIZE = 256 << 10, WARP = 32, SLOT_SIZE = 64, POISON = 0xff };

enum state { READY, AT_BARRIER, AT_EXCHANGE, DONE };

struct copy {
    void *to;
    unsigned char data[16];
};

struct fiber {
    unsigned linear;
    std::vector<copy> asked;               /* since the latest commit */
    std::deque<std::vector<copy>> commits; /* not waited for yet */
    ucontext_t context;
    void *stack, *fake_stack;
    state is;
    bool deposited; /* has given something to this exchange */
};

struct block_run {
    std::vector<fiber> fibers;
    std::vector<unsigned char> slots; /* [threads][SLOT_SIZE] */
    std::mt19937 draw;
    ucontext_t scheduler;
    void *scheduler_stack, *scheduler_fake;
    size_t scheduler_size;
    void (*body)(void *);
    void *arg;
};

block_run *running;
fiber *current;

void switch_begin(void **fake, const void *stack, size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, size);
#else
    (void)fake, (void)stack, (void)size;
#endif
}

void switch_end(void *fake, const void **stack, size_t *size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, stack, size);
#else
    (void)fake, (void)stack, (void)size;
#endif
}

/* Gives way to the scheduler, and comes back when it resumes this fiber. */
void pause(state is)
{
    fiber *self = current;

    self->is = is;
    switch_begin(is == DONE ? NULL : &self->fake_stack,
                 running->scheduler_stack, running->scheduler_size);
    swapcontext(&self->context, &running->scheduler);
    switch_end(self->fake_stack, NULL, NULL);
}

void fiber_main(void)
{
    switch_end(NULL, (const void **)&running->scheduler_stack,
               &running->scheduler_size);
    running->body(running->arg);
    pause(DONE);
}

void resume(fiber *f)
{
    current = f;
    f->is = READY;
    linear = f->linear;
    threadIdx = {linear % blockDim.x, linear / blockDim.x % blockDim.y,
                 linear / blockDim.x / blockDim.y};
    switch_begin(&running->scheduler_fake, f->stack, STACK_SIZE);
    swapcontext(&running->scheduler, &f->context);
    switch_end(running->scheduler_fake, NULL, NULL);
}

bool all_at_barrier(const block_run &block)
{
    for (const fiber &f : block.fibers)
        if (f.is == READY || f.is == AT_EXCHANGE)
            return false;
    return true;
}

bool warp_has_come(const block_run &block, size_t first)
{
    const size_t end = std::min(first + WARP, block.fibers.size());

    for (size_t i = first; i < end; i++)
        if (block.fibers[i].is == READY || block.fibers[i].is == AT_BARRIER)
            return false;
    return true;
}

/* Lets go on who waits for nobody any more. */
void waits_open(block_run &block)
{
    const bool barrier_open = all_at_barrier(block);
    std::vector<size_t> open;

    for (size_t i = 0; i < block.fibers.size(); i++) {
        const state is = block.fibers[i].is;
        if ((is == AT_BARRIER && barrier_open) ||
            (is == AT_EXCHANGE && warp_has_come(block, i / WARP * WARP)))
            open.push_back(i);
    }
    for (size_t i : open)
        block.fibers[i].is = READY;
}

/* One round: about half of the warps whose threads can go on do, to their next
 * wait and in a drawn order, so that warps drift apart as far as they may. */
bool round_of(block_run &block)
{
    std::vector<size_t> ready, chosen;
    const unsigned warps = block.draw();

    waits_open(block);
    for (size_t i = 0; i < block.fibers.size(); i++) {
        if (block.fibers[i].is != READY)
            continue;
        ready.push_back(i);
        if (warps >> (i / WARP) & 1)
            chosen.push_back(i);
    }
    if (chosen.empty())
        chosen = ready;
    std::shuffle(chosen.begin(), chosen.end(), block.draw);
    for (size_t i : chosen)
        resume(&block.fibers[i]);
    return !chosen.empty();
}

void fiber_begin(fiber *f, unsigned place)
{
    f->linear = place;
    f->is = READY;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_SIZE;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
}

void block_execute(block_run &block, uint3 at, size_t shared_size)
{
    blockIdx = at;
    for (unsigned i = 0; i < block.fibers.size(); i++)
        fiber_begin(&block.fibers[i], i);
    memset(shared, POISON, shared_size);
    while (round_of(block))
        ;
    for (const fiber &f : block.fibers)
        assert(f.is == DONE); /* else threads wait for one another */
}

} // namespace

void run(const cudaLaunchConfig_t &config, void (*body)(void *), void *arg)
{
    const dim3 t = config.blockDim, g = config.gridDim;
    block_run block = {};

    assert(t.x * t.y * t.z <= 1024 && g.x * g.y * g.z > 0);
    block.fibers.resize(t.x * t.y * t.z);
    block.slots.resize(block.fibers.size() * SLOT_SIZE);
    block.body = body;
    block.arg = arg;
    running = &block;
    blockDim = t;
    gridDim = g;
    shared = aligned_alloc(1024, (config.dynamicSmemBytes / 1024 + 1) * 1024);
    for (fiber &f : block.fibers)
        f.stack = malloc(STACK_SIZE);
    for (unsigned i = 0; i < g.x * g.y * g.z; i++)
        block_execute(block, {i % g.x, i / g.x % g.y, i / g.x / g.y},
                      config.dynamicSmemBytes);
    for (fiber &f : block.fibers)
        free(f.stack);
    free(shared);
    running = NULL;
}

void block_barrier(void)
{
    pause(AT_BARRIER);
}

void warp_exchange(const void *mine, void *all, size_t size)
{
    const unsigned me = linear, first = me / WARP * WARP;
    const size_t end = std::min<size_t>(first + WARP, running->fibers.size());

    assert(size <= SLOT_SIZE);
    memcpy(&running->slots[me * SLOT_SIZE], mine, size);
    current->deposited = true;
    pause(AT_EXCHANGE);
    for (size_t i = first; i < end; i++)
        if (running->fibers[i].deposited)
            memcpy((char *)all + (i - first) * size,
                   &running->slots[i * SLOT_SIZE], size);
    /* Nobody may give anew before all have taken. */
    pause(AT_EXCHANGE);
    running->fibers[me].deposited = false;
}

void copy_ask(void *to, const void *from)
{
    copy c = {to, {}};

    if (from != NULL)
        memcpy(c.data, from, sizeof(c.data));
    if (running->draw() % 2 == 0)
        memcpy(c.to, c.data, sizeof(c.data));
    else
        current->asked.push_back(c);
}

void copy_commit(void)
{
    current->commits.push_back(std::move(current->asked));
    current->asked.clear();
}

void copy_wait(unsigned pending)
{
    std::deque<std::vector<copy>> &commits = current->commits;

    for (; commits.size() > pending; commits.pop_front())
        for (const copy &c : commits.front())
            memcpy(c.to, c.data, sizeof(c.data));
}

} // namespace emulated
