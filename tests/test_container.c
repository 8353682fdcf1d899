#include "config.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/container.h"
#include "offload/budget.h"
#include "tests/models.h"

enum { UNTOUCHED = 77 };

/* A tree of files that stands for "/". */
static char root[PATH_SIZE];

static void tree_make(void);
static void tree_remove(void);
static int entry_remove(const char *path, const struct stat *about, int kind,
                        struct FTW *place);
static void tree_add(const char *path, const char *text);
static uint64_t budget_of(uint64_t bytes, double percent,
                          const coterie_container_t *container);
static coterie_budget_t budgets_of(const coterie_tiers_options_t *options,
                                   const coterie_container_t *container);
static coterie_container_t container_read(void);

TestSuite(container, .init = tree_make, .fini = tree_remove);

Test(container, without_control_groups_limits_nothing)
{
    coterie_container_t c = container_read();

    cr_expect(eq(u64, UINT64_MAX, c.memory_limit));
    cr_expect(zero(u64, c.memory_used));
    cr_expect(eq(dbl, 0, c.cpu_limit));
}

Test(container, of_version_2_limits_memory_and_cores)
{
    tree_add("proc/self/cgroup", "0::/box\n");
    tree_add("sys/fs/cgroup/box/memory.max", "1000000\n");
    tree_add("sys/fs/cgroup/box/memory.current", "300000\n");
    tree_add("sys/fs/cgroup/box/cpu.max", "150000 100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, 1000000, c.memory_limit));
    cr_expect(eq(u64, 300000, c.memory_used));
    cr_expect(eq(dbl, 1.5, c.cpu_limit));
}

/* The page cache goes when memory is needed. */
Test(container, does_not_count_what_is_only_cached)
{
    tree_add("proc/self/cgroup", "0::/\n");
    tree_add("sys/fs/cgroup/memory.max", "1000000\n");
    tree_add("sys/fs/cgroup/memory.current", "900000\n");
    tree_add("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 700000\n");
    cr_expect(eq(u64, 200000, container_read().memory_used));
}

Test(container, lowers_a_budget_in_percent_to_what_is_left)
{
    coterie_container_t c = {.memory_limit = 1000, .memory_used = 400};

    cr_expect(eq(u64, 250, budget_of(0, 25, &c)));
    cr_expect(eq(u64, 600, budget_of(0, 80, &c)));
}

Test(container, refuses_a_budget_in_bytes_beyond_its_limit)
{
    coterie_container_t c = {.memory_limit = 900, .memory_used = 400};
    coterie_container_t wide = {.memory_limit = 1000, .memory_used = 400};

    cr_expect(eq(u64, 900, budget_of(900, 0, &c)));
    cr_expect(eq(u64, UNTOUCHED, budget_of(901, 0, &c)));
    cr_expect(strstr(coterie_last_error(), "limited to 900") != NULL);
    cr_expect(eq(u64, 5000, budget_of(5000, 0, &wide))); /* all fit */
}

Test(container, leaves_host_memory_what_the_fast_tier_does)
{
    coterie_container_t c = {.memory_limit = 1000, .memory_used = 400};
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_budget_t budget;

    options.budget_percent = 25;
    options.host_percent = 50;
    budget = budgets_of(&options, &c);
    cr_expect(eq(u64, 250, budget.fast));
    cr_expect(eq(u64, 350, budget.host));
    options.budget_percent = 80;
    budget = budgets_of(&options, &c);
    cr_expect(eq(u64, 600, budget.fast));
    cr_expect(zero(u64, budget.host));
}

/* What is given in bytes comes before percentages, of whichever tier. */
Test(container, counts_host_memory_in_bytes)
{
    coterie_container_t c = {.memory_limit = 900, .memory_used = 100};
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_budget_t budget;

    options.budget_percent = 50;
    options.host_budget = 450;
    budget = budgets_of(&options, &c);
    cr_expect(eq(u64, 350, budget.fast));
    cr_expect(eq(u64, 450, budget.host));
    options.budget_percent = 0;
    options.budget = 450;
    budget = budgets_of(&options, &c);
    cr_expect(eq(u64, 450, budget.fast));
    options.host_budget = 451;
    budget = budgets_of(&options, &c);
    cr_expect(eq(u64, UNTOUCHED, budget.fast));
    cr_expect(eq(u64, UNTOUCHED, budget.host));
    cr_expect(strstr(coterie_last_error(), "limited to 900") != NULL);
    options.budget = options.host_budget = UINT64_MAX; /* all experts */
    cr_expect(eq(u64, UNTOUCHED, budgets_of(&options, &c).fast));
    c.memory_limit = 1000;
    cr_expect(eq(u64, UINT64_MAX, budgets_of(&options, &c).fast));
}

Test(container, of_version_2_may_say_max)
{
    tree_add("proc/self/cgroup", "0::/\n");
    tree_add("sys/fs/cgroup/memory.max", "max\n");
    tree_add("sys/fs/cgroup/memory.current", "300000\n");
    tree_add("sys/fs/cgroup/cpu.max", "max 100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, UINT64_MAX, c.memory_limit));
    cr_expect(eq(dbl, 0, c.cpu_limit));
}

Test(container, of_version_1_limits_memory_and_cores)
{
    tree_add("proc/self/cgroup",
             "9:cpu,cpuacct:/box\n4:memory:/box\n3:cpuset:/\n0::/\n");
    tree_add("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "4096000\n");
    tree_add("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "4096\n");
    tree_add("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "400000\n");
    tree_add("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, 4096000, c.memory_limit));
    cr_expect(eq(u64, 4096, c.memory_used));
    cr_expect(eq(dbl, 4, c.cpu_limit));
}

Test(container, of_version_1_may_be_without_limits)
{
    tree_add("proc/self/cgroup", "9:cpu:/\n4:memory:/\n");
    tree_add("sys/fs/cgroup/memory/memory.limit_in_bytes",
             "9223372036854771712\n");
    tree_add("sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n");
    tree_add("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    tree_add("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, UINT64_MAX, c.memory_limit));
    cr_expect(eq(dbl, 0, c.cpu_limit));
}

Test(container, is_as_strict_as_the_strictest_around_it)
{
    tree_add("proc/self/cgroup", "0::/a/b\n");
    tree_add("sys/fs/cgroup/a/b/memory.max", "5000000\n");
    tree_add("sys/fs/cgroup/a/b/memory.current", "1000000\n");
    tree_add("sys/fs/cgroup/a/memory.max", "6000000\n");
    tree_add("sys/fs/cgroup/a/memory.current", "5900000\n");
    tree_add("sys/fs/cgroup/a/b/cpu.max", "300000 100000\n");
    tree_add("sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, 6000000, c.memory_limit)); /* has the least left */
    cr_expect(eq(u64, 5900000, c.memory_used));
    cr_expect(eq(dbl, 2, c.cpu_limit));
}

/* As where /proc tells of the host's groups. */
Test(container, whose_path_leads_nowhere_is_the_root)
{
    tree_add("proc/self/cgroup", "4:memory:/docker/0123\n");
    tree_add("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000000\n");
    tree_add("sys/fs/cgroup/memory/memory.usage_in_bytes", "8000000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, 7000000, c.memory_limit));
    cr_expect(eq(u64, 7000000, c.memory_used)); /* never beyond the limit */
}

Test(container, of_nonsense_limits_nothing)
{
    tree_add("proc/self/cgroup", "nonsense\n4:memory\n0::/x\n");
    tree_add("sys/fs/cgroup/x/memory.max", "\n");
    tree_add("sys/fs/cgroup/x/memory.current", "many\n");
    tree_add("sys/fs/cgroup/x/cpu.max", "100000\n");
    coterie_container_t c = container_read();

    cr_expect(eq(u64, UINT64_MAX, c.memory_limit));
    cr_expect(eq(dbl, 0, c.cpu_limit));
}

Test(container, leaves_at_least_one_core)
{
    cr_expect(ge(u32, coterie_container_cores(), 1));
}

static void tree_make(void)
{
    folder_make(root);
}

static void tree_remove(void)
{
    cr_assert(nftw(root, entry_remove, 8, FTW_DEPTH | FTW_PHYS) == 0);
}

static int entry_remove(const char *path, const struct stat *about, int kind,
                        struct FTW *place)
{
    (void)about;
    (void)place;
    return kind == FTW_DP ? rmdir(path) : unlink(path);
}

static void tree_add(const char *path, const char *text)
{
    char whole[2 * PATH_SIZE];

    snprintf(whole, sizeof(whole), "%s/%s", root, path);
    for (char *at = whole + strlen(root) + 1; (at = strchr(at, '/')) != NULL;
         at++) {
        *at = '\0';
        mkdir(whole, 0700);
        *at = '/';
    }
    file_save(whole, text, strlen(text));
}

static uint64_t budget_of(uint64_t bytes, double percent,
                          const coterie_container_t *container)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;

    options.budget = bytes;
    options.budget_percent = percent;
    return budgets_of(&options, container).fast;
}

/* Of experts that take 1000 bytes; UNTOUCHED if they are refused. */
static coterie_budget_t budgets_of(const coterie_tiers_options_t *options,
                                   const coterie_container_t *container)
{
    coterie_budget_t budget = {UNTOUCHED, UNTOUCHED};

    coterie_budget_read(options, container, 1000, "store", &budget);
    return budget;
}

static coterie_container_t container_read(void)
{
    coterie_container_t container;

    coterie_container_read(root, &container);
    return container;
}
