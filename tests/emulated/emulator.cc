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

enum {
    STACK_SIZE = 256 << 10,
    WARP = 32,
    SLOT_SIZE = 64,
    POISON = 0xff,
    SHARED_ALIGN = 1024
};

enum state { READY, AT_BARRIER, AT_EXCHANGE, AT_PHASE, DONE };

struct copy {
    void *to;
    unsigned char data[16];
};

struct bulk {
    void *to;
    const void *from;
    unsigned size;
    uint64_t *barrier;
};

/* What barriers in shared memory hold. */
struct phase {
    uint64_t parity : 1, count : 16, missing : 16;
    uint64_t bytes : 31; /* announced and not there yet */
};

struct fiber {
    unsigned linear;
    std::vector<copy> asked;               /* since the latest commit */
    std::deque<std::vector<copy>> commits; /* not waited for yet */
    std::vector<void *> unfenced;          /* copies only this thread sees */
    std::vector<product> products;
    std::deque<std::vector<product>> product_commits;
    bool product_fenced;
    uint64_t *at_barrier; /* AT_PHASE: until this parity's has ended */
    unsigned parity;
    ucontext_t context;
    void *stack, *fake_stack;
    state is;
    bool deposited; /* has given something to this exchange */
};

struct block_run {
    std::vector<fiber> fibers;
    std::vector<unsigned char> slots; /* [threads][SLOT_SIZE] */
    std::vector<unsigned char> memory, seen_by_products; /* shared memory */
    std::vector<bulk> bulks;                             /* not made yet */
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
        if (f.is != AT_BARRIER && f.is != DONE)
            return false;
    return true;
}

bool warp_has_come(const block_run &block, size_t first)
{
    const size_t end = std::min(first + WARP, block.fibers.size());

    for (size_t i = first; i < end; i++)
        if (block.fibers[i].is != AT_EXCHANGE && block.fibers[i].is != DONE)
            return false;
    return true;
}

phase phase_of(const uint64_t *barrier)
{
    phase p;
    memcpy(&p, barrier, sizeof(p));
    return p;
}

void phase_write(phase p, uint64_t *barrier)
{
    if (p.missing == 0 && p.bytes == 0) {
        p.parity ^= 1;
        p.missing = p.count;
    }
    memcpy(barrier, &p, sizeof(p));
}

bool phase_has_ended(const fiber &f)
{
    return phase_of(f.at_barrier).parity != f.parity;
}

void bulk_make(const bulk &b)
{
    phase p = phase_of(b.barrier);

    memcpy(b.to, b.from, b.size);
    memcpy(&running->seen_by_products[shared_address(b.to)], b.from, b.size);
    assert(p.bytes >= b.size); /* announced first */
    p.bytes -= b.size;
    phase_write(p, b.barrier);
}

/* Some of those under way; one at least if nothing else goes on. */
bool bulks_make(block_run &block, bool needed)
{
    std::vector<bulk> later;
    bool made = false;

    for (const bulk &b : block.bulks)
        if (block.draw() % 4 == 0 || (needed && !made)) {
            bulk_make(b);
            made = true;
        } else {
            later.push_back(b);
        }
    block.bulks = later;
    return made;
}

/* Lets go on who waits for nobody any more. */
void waits_open(block_run &block)
{
    const bool barrier_open = all_at_barrier(block);
    std::vector<size_t> open;

    for (size_t i = 0; i < block.fibers.size(); i++) {
        const state is = block.fibers[i].is;
        if ((is == AT_BARRIER && barrier_open) ||
            (is == AT_EXCHANGE && warp_has_come(block, i / WARP * WARP)) ||
            (is == AT_PHASE && phase_has_ended(block.fibers[i])))
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
    if (bulks_make(block, ready.empty()))
        return true;
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
    const unsigned offset = block.draw() % (SHARED_ALIGN / 16) * 16;
    unsigned char *memory = block.memory.data();

    for (unsigned i = 0; i < block.fibers.size(); i++)
        fiber_begin(&block.fibers[i], i);
    std::fill(block.memory.begin(), block.memory.end(), POISON);
    std::fill(block.seen_by_products.begin(), block.seen_by_products.end(),
              POISON);
    shared = memory + -(uintptr_t)memory % SHARED_ALIGN + offset;
    while (round_of(block))
        ;
    for (const fiber &f : block.fibers) {
        assert(f.is == DONE); /* else threads wait for one another */
        assert(f.products.empty() && f.product_commits.empty());
    }
    assert(block.bulks.empty());
    for (const unsigned char *at = (unsigned char *)shared + shared_size;
         at != memory + block.memory.size(); at++)
        assert(*at == POISON); /* else written beyond its end */
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
    block.memory.resize(config.dynamicSmemBytes + 2 * SHARED_ALIGN);
    block.seen_by_products.resize(block.memory.size());
    for (fiber &f : block.fibers)
        f.stack = malloc(STACK_SIZE);
    for (unsigned i = 0; i < g.x * g.y * g.z; i++)
        block_execute(block, {i % g.x, i / g.x % g.y, i / g.x / g.y},
                      config.dynamicSmemBytes);
    for (fiber &f : block.fibers)
        free(f.stack);
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

unsigned draw(void)
{
    return running->draw();
}

static void copy_make(const copy &c)
{
    memcpy(c.to, c.data, sizeof(c.data));
    current->unfenced.push_back(c.to);
}

void copy_ask(void *to, const void *from)
{
    copy c = {to, {}};

    if (from != NULL)
        memcpy(c.data, from, sizeof(c.data));
    if (running->draw() % 2 == 0)
        copy_make(c);
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
            copy_make(c);
}

unsigned shared_address(const void *at)
{
    const unsigned char *memory = running->memory.data();

    return (unsigned)((unsigned char *)at -
                      (memory + -(uintptr_t)memory % SHARED_ALIGN));
}

const void *shared_seen_by_products(unsigned address)
{
    return &running->seen_by_products[address];
}

void proxy_fence(void)
{
    for (void *at : current->unfenced)
        memcpy(&running->seen_by_products[shared_address(at)], at, 16);
    current->unfenced.clear();
}

void barrier_init(uint64_t *barrier, unsigned count)
{
    const phase p = {0, count, count, 0};

    memcpy(barrier, &p, sizeof(p));
}

void barrier_arrive(uint64_t *barrier, unsigned bytes)
{
    phase p = phase_of(barrier);

    assert(p.missing > 0);
    p.missing--;
    p.bytes += bytes;
    phase_write(p, barrier);
}

void barrier_wait(uint64_t *barrier, unsigned parity)
{
    current->at_barrier = barrier;
    current->parity = parity;
    pause(AT_PHASE);
}

void bulk_copy(void *to, const void *from, unsigned size, uint64_t *barrier)
{
    const bulk b = {to, from, size, barrier};

    assert((shared_address(to) | (uintptr_t)from | size) % 16 == 0);
    if (running->draw() % 4 == 0)
        bulk_make(b);
    else
        running->bulks.push_back(b);
}

namespace {

/* The whole warp's: nobody goes on before all lanes' operands were read. */
void product_make(const product &p)
{
    const uint32_t *lanes_a[WARP] = {};

    warp_exchange(&p.a, lanes_a, sizeof(p.a));
    p.make(p, lanes_a);
    __syncwarp();
}

} // namespace

/* Those on the same sums are made in order: none at once while others wait. */
void product_ask(const product &p)
{
    const bool first =
        current->products.empty() && current->product_commits.empty();
    const bool now = warp_get(running->draw() % 2, 0) == 0;

    if (!current->product_fenced)
        p.d[0] = NAN;
    if (first && now)
        product_make(p);
    else
        current->products.push_back(p);
}

void product_fence(void)
{
    current->product_fenced = true;
}

void product_commit(void)
{
    current->product_commits.push_back(std::move(current->products));
    current->products.clear();
}

void product_wait(unsigned pending)
{
    current->product_fenced = false;
    while (current->product_commits.size() > pending) {
        const std::vector<product> commit =
            std::move(current->product_commits.front());

        current->product_commits.pop_front();
        for (const product &p : commit)
            product_make(p);
    }
}

} // namespace emulated
