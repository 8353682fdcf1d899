#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_GLPK
#include <glpk.h>
#endif

#include "bench/placement.h"

/* ExFlow's programme: x[l][e][r] says that an expert is on a rank, and each
 * pair of experts that follow each other is cut if some rank has one of them
 * only. A solver may overstay its limit, so it works in a process of its own,
 * which is ended from here; what it found by then is in shared memory. */

#ifdef HAVE_GLPK

enum {
    PAIRS_MAX = 60000, /* more rows than this times ranks take no solver far */
    NAME_MAX_SIZE = 64
};

typedef struct found {
    int any;
    uint16_t rank_of[];
} found_t;

typedef struct programme {
    const instance_t *in;
    glp_prob *glp;
    found_t *found; /* shared */
} programme_t;

typedef void (*solver_t)(programme_t *p);

static int solve_apart(const instance_t *in, solver_t solver,
                       uint16_t *rank_of);
static void wait_at_most(pid_t child, double seconds);
static void programme_make(programme_t *p);
static void experts_add(programme_t *p);
static void pairs_add(programme_t *p);
static void pair_add(programme_t *p, uint32_t layer, size_t e, size_t f);
static int column_of(const programme_t *p, uint32_t layer, size_t expert,
                     uint32_t rank);
static void solve_glpk(programme_t *p);
static void glpk_tells(glp_tree *tree, void *programme);
static void solve_cbc(programme_t *p);
static void solution_line(programme_t *p, const char *line);

int place_by_glpk(const instance_t *in, uint16_t *rank_of)
{
    return solve_apart(in, solve_glpk, rank_of);
}

int place_by_cbc(const instance_t *in, uint16_t *rank_of)
{
    return solve_apart(in, solve_cbc, rank_of);
}

static int solve_apart(const instance_t *in, solver_t solver,
                       uint16_t *rank_of)
{
    size_t items = (size_t)in->view.layer_count * in->view.expert_count;
    size_t size = sizeof(found_t) + items * sizeof(uint16_t);
    size_t pairs = items * in->view.expert_count;
    programme_t p = {.in = in};
    int any;
    pid_t child;

    if (pairs > PAIRS_MAX)
        return 0;
    p.found = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p.found == MAP_FAILED)
        return 0;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        programme_make(&p);
        solver(&p);
        _exit(0);
    }
    if (child > 0)
        wait_at_most(child, in->seconds);
    any = p.found->any;
    memcpy(rank_of, p.found->rank_of, items * sizeof(*rank_of));
    munmap(p.found, size);
    return any;
}

/* With what it started, too. */
static void wait_at_most(pid_t child, double seconds)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    int status;

    for (double slept = 0; slept < seconds; slept += 0.02) {
        if (waitpid(child, &status, WNOHANG) == child)
            return;
        nanosleep(&nap, NULL);
    }
    kill(-child, SIGKILL);
    waitpid(child, &status, 0);
}

static void programme_make(programme_t *p)
{
    glp_term_out(GLP_OFF);
    p->glp = glp_create_prob();
    experts_add(p);
    pairs_add(p);
}

/* Every expert on one rank; every rank's capacity filled. */
static void experts_add(programme_t *p)
{
    uint32_t experts = p->in->view.expert_count, ranks = p->in->ranks;
    uint32_t layers = p->in->view.layer_count;
    int *columns = calloc(experts + ranks + 2, sizeof(*columns));
    double *ones = calloc(experts + ranks + 2, sizeof(*ones));

    glp_add_cols(p->glp, (int)(layers * experts * ranks));
    for (int c = 1; c <= (int)(layers * experts * ranks); c++) {
        char name[NAME_MAX_SIZE];
        snprintf(name, sizeof(name), "x%d", c);
        glp_set_col_name(p->glp, c, name);
        glp_set_col_kind(p->glp, c, GLP_BV);
    }
    for (uint32_t i = 0; i < experts + ranks + 2; i++)
        ones[i] = 1;
    for (uint32_t l = 0; l < layers; l++) {
        for (uint32_t e = 0; e < experts; e++) {
            int row = glp_add_rows(p->glp, 1);
            for (uint32_t r = 0; r < ranks; r++)
                columns[r + 1] = column_of(p, l, e, r);
            glp_set_row_bnds(p->glp, row, GLP_FX, 1, 1);
            glp_set_mat_row(p->glp, row, (int)ranks, columns, ones);
        }
        for (uint32_t r = 0; r < ranks; r++) {
            int row = glp_add_rows(p->glp, 1);
            for (uint32_t e = 0; e < experts; e++)
                columns[e + 1] = column_of(p, l, e, r);
            glp_set_row_bnds(p->glp, row, GLP_FX, p->in->capacity[r],
                             p->in->capacity[r]);
            glp_set_mat_row(p->glp, row, (int)experts, columns, ones);
        }
    }
    free(columns);
    free(ones);
}

static void pairs_add(programme_t *p)
{
    size_t experts = p->in->view.expert_count;

    for (uint32_t l = 0; l + 1 < p->in->view.layer_count; l++)
        for (size_t e = 0; e < experts; e++)
            for (size_t f = 0; f < experts; f++)
                if (p->in->seam[(l * experts + e) * experts + f] > 0)
                    pair_add(p, l, e, f);
}

static void pair_add(programme_t *p, uint32_t layer, size_t e, size_t f)
{
    size_t experts = p->in->view.expert_count;
    double weight = p->in->seam[(layer * experts + e) * experts + f];
    int cut = glp_add_cols(p->glp, 1);

    glp_set_col_bnds(p->glp, cut, GLP_LO, 0, 0);
    glp_set_obj_coef(p->glp, cut, weight);
    for (uint32_t r = 0; r < p->in->ranks; r++) {
        int row = glp_add_rows(p->glp, 1);
        int columns[] = {0, column_of(p, layer, e, r),
                         column_of(p, layer + 1, f, r), cut};
        double values[] = {0, 1, -1, -1};
        glp_set_row_bnds(p->glp, row, GLP_UP, 0, 0);
        glp_set_mat_row(p->glp, row, 3, columns, values);
    }
}

static int column_of(const programme_t *p, uint32_t layer, size_t expert,
                     uint32_t rank)
{
    return (int)((layer * p->in->view.expert_count + expert) * p->in->ranks +
                 rank + 1);
}

/* Without the presolver, so that the columns keep their numbers. */
static void solve_glpk(programme_t *p)
{
    glp_iocp options;

    glp_init_iocp(&options);
    options.msg_lev = GLP_MSG_OFF;
    options.cb_func = glpk_tells;
    options.cb_info = p;
    if (glp_simplex(p->glp, NULL) == 0)
        glp_intopt(p->glp, &options);
}

static void glpk_tells(glp_tree *tree, void *programme)
{
    programme_t *p = programme;
    glp_prob *now = glp_ios_get_prob(tree);
    uint32_t experts = p->in->view.expert_count, ranks = p->in->ranks;

    if (glp_ios_reason(tree) != GLP_IBINGO)
        return;
    for (uint32_t i = 0; i < p->in->view.layer_count * experts; i++)
        for (uint32_t r = 0; r < ranks; r++)
            if (glp_get_col_prim(now, (int)(i * ranks + r + 1)) > 0.5)
                p->found->rank_of[i] = (uint16_t)r;
    p->found->any = 1;
}

/* The command of Debian's coinor-cbc: a model in, a solution out, by files. */
static void solve_cbc(programme_t *p)
{
    char folder[] = "/tmp/placement-XXXXXX", model[NAME_MAX_SIZE];
    char solution[NAME_MAX_SIZE], line[4 * NAME_MAX_SIZE];
    FILE *stream;
    pid_t child;

    if (mkdtemp(folder) == NULL)
        return;
    snprintf(model, sizeof(model), "%s/model.mps", folder);
    snprintf(solution, sizeof(solution), "%s/solution", folder);
    glp_write_mps(p->glp, GLP_MPS_FILE, NULL, model);
    snprintf(line, sizeof(line), "%.0f", 0.8 * p->in->seconds);
    child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) != NULL)
            execlp("cbc", "cbc", model, "sec", line, "solve", "solution",
                   solution, (char *)NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
    stream = fopen(solution, "r");
    while (stream != NULL && fgets(line, sizeof(line), stream) != NULL)
        solution_line(p, line);
    if (stream != NULL)
        fclose(stream);
    unlink(solution);
    unlink(model);
    rmdir(folder);
}

/* "  7 x7 1 0": the seventh column, x of expert and rank, is 1. */
static void solution_line(programme_t *p, const char *line)
{
    uint32_t ranks = p->in->ranks;
    unsigned column;
    double value;

    if (sscanf(line, " %*s x%u %lf", &column, &value) != 2 || value < 0.5)
        return;
    p->found->rank_of[(column - 1) / ranks] = (uint16_t)((column - 1) % ranks);
    p->found->any = 1;
}

#else

int place_by_glpk(const instance_t *in, uint16_t *rank_of)
{
    (void)in, (void)rank_of;
    return 0;
}

int place_by_cbc(const instance_t *in, uint16_t *rank_of)
{
    return place_by_glpk(in, rank_of);
}

#endif
