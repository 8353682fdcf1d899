#include "config.h"

#include <assert.h>
#include <glpk.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/master.h"

enum { ITERATIONS = 200, COLUMNS_FIRST = 256 };

static const double CHOICE_SHARE = 0.1; /* of the time left */

typedef struct call {
    coterie_master_t *master;
    coterie_search_t *search;
    const coterie_solution_t *solution;
    const uint32_t *masks; /* of a column to add */
    uint32_t class, column;
    double value; /* of a column */
    double until; /* when a choice must be made */
    int result;
    jmp_buf failed;
} call_t;

static int call_glpk(call_t *call, void (*work)(call_t *call));
static void glpk_failed(void *arg);
static void work_open(call_t *call);
static void work_add(call_t *call);
static void work_revalue(call_t *call);
static void work_solve(call_t *call);
static void work_choose(call_t *call);
static void watch_choice(glp_tree *tree, void *arg);
static void read_solution(coterie_master_t *master);
static coterie_status_t room_grow(coterie_master_t *master);

coterie_status_t coterie_master_open(coterie_master_t *master,
                                     const coterie_problem_t *problem,
                                     const uint32_t *class_size,
                                     uint32_t class_count)
{
    call_t call = {.master = master};
    size_t rows = (size_t)problem->layer_count * problem->expert_count +
                  class_count;
    double weight = coterie_problem_seam_weight(problem) +
                    coterie_problem_pair_weight(problem);

    memset(master, 0, sizeof(*master));
    master->layer_count = problem->layer_count;
    master->expert_count = problem->expert_count;
    master->class_count = class_count;
    master->class_size = class_size;
    master->scale = weight > 0 ? problem->rank_count / weight : 1;
    master->dual = calloc(rows, sizeof(*master->dual));
    master->rows = calloc(rows + 1, sizeof(*master->rows));
    master->ones = calloc(rows + 1, sizeof(*master->ones));
    if (!master->dual || !master->rows || !master->ones)
        return coterie_fail_memory(rows * 20, "the master programme");
    for (size_t i = 0; i <= rows; i++)
        master->ones[i] = 1;
    call_glpk(&call, work_open);
    return COTERIE_OK;
}

coterie_status_t coterie_master_add(coterie_master_t *master,
                                    const uint32_t *masks, uint32_t class,
                                    double value)
{
    call_t call = {.master = master, .masks = masks, .class = class,
                   .value = value};
    coterie_column_t *column;
    coterie_status_t status;

    if (master->column_count == master->column_room) {
        status = room_grow(master);
        if (status != COTERIE_OK)
            return status;
    }
    column = &master->columns[master->column_count];
    column->share = 0;
    column->class = class;
    column->at = master->column_count * master->layer_count;
    memcpy(master->masks + column->at, masks,
           master->layer_count * sizeof(*masks));
    master->column_count++;
    call_glpk(&call, work_add);
    return COTERIE_OK;
}

int coterie_master_solve(coterie_master_t *master, coterie_search_t *search,
                         const coterie_solution_t *solution)
{
    call_t call = {.master = master, .search = search, .solution = solution,
                   .result = 1};

    call_glpk(&call, work_solve);
    return call.result;
}

int coterie_master_choose(coterie_master_t *master, coterie_search_t *search,
                          const coterie_solution_t *solution, uint32_t *chosen)
{
    call_t call = {.master = master, .search = search, .solution = solution,
                   .result = 1};
    uint32_t count = 0;

    call.until = coterie_search_now() +
                 CHOICE_SHARE * coterie_search_left(search);
    call_glpk(&call, work_choose);
    if (call.result != 0)
        return 1;
    if (glp_mip_status(master->lp) != GLP_OPT &&
        glp_mip_status(master->lp) != GLP_FEAS)
        return 1;
    for (uint32_t c = 0; c < master->column_count; c++)
        if (glp_mip_col_val(master->lp, c + 1) > 0.5)
            chosen[count++] = c;
    return 0;
}

void coterie_master_revalue(coterie_master_t *master, uint32_t column,
                            double value)
{
    call_t call = {.master = master, .column = column, .value = value};

    call_glpk(&call, work_revalue);
}

void coterie_master_close(coterie_master_t *master)
{
    if (master->lp != NULL)
        glp_delete_prob(master->lp);
    free(master->dual);
    free(master->rows);
    free(master->ones);
    free(master->columns);
    free(master->masks);
    memset(master, 0, sizeof(*master));
}

/* GLPK's documented way out of its own errors: jump, then drop its whole
 * environment, with all that lies in it. */
static int call_glpk(call_t *call, void (*work)(call_t *call))
{
    int terminal;

    if (call->master->failed)
        return -1;
    terminal = glp_term_out(GLP_OFF);
    glp_error_hook(glpk_failed, call);
    if (setjmp(call->failed) == 0) {
        work(call);
    } else {
        call->master->failed = 1;
        call->master->lp = NULL;
        glp_free_env();
    }
    glp_error_hook(NULL, NULL);
    glp_term_out(terminal);
    return call->master->failed ? -1 : 0;
}

static void glpk_failed(void *arg)
{
    longjmp(((call_t *)arg)->failed, 1);
}

static void work_open(call_t *call)
{
    coterie_master_t *m = call->master;
    int items = m->layer_count * m->expert_count;

    m->lp = glp_create_prob();
    glp_set_obj_dir(m->lp, GLP_MAX);
    glp_add_rows(m->lp, items + m->class_count);
    for (int i = 1; i <= items; i++)
        glp_set_row_bnds(m->lp, i, GLP_FX, 1, 1);
    for (uint32_t c = 0; c < m->class_count; c++)
        glp_set_row_bnds(m->lp, items + c + 1, GLP_FX, m->class_size[c],
                         m->class_size[c]);
}

static void work_add(call_t *call)
{
    coterie_master_t *m = call->master;
    int count = 0, column = glp_add_cols(m->lp, 1);

    for (uint32_t l = 0; l < m->layer_count; l++)
        for (uint32_t rest = call->masks[l]; rest != 0; rest &= rest - 1)
            m->rows[++count] =
                l * m->expert_count + __builtin_ctz(rest) + 1;
    m->rows[++count] = m->layer_count * m->expert_count + call->class + 1;
    glp_set_col_bnds(m->lp, column, GLP_LO, 0, 0);
    glp_set_col_kind(m->lp, column, GLP_IV);
    glp_set_obj_coef(m->lp, column, call->value * m->scale);
    glp_set_mat_col(m->lp, column, count, m->rows, m->ones);
}

static void work_revalue(call_t *call)
{
    glp_set_obj_coef(call->master->lp, call->column + 1,
                     call->value * call->master->scale);
}

static void work_solve(call_t *call)
{
    glp_smcp options;
    int code = GLP_EITLIM;

    glp_init_smcp(&options);
    options.msg_lev = GLP_MSG_OFF;
    options.it_lim = ITERATIONS;
    while (code == GLP_EITLIM) {
        if (coterie_search_over(call->search, call->solution))
            return;
        code = glp_simplex(call->master->lp, &options);
    }
    if (code != 0 || glp_get_status(call->master->lp) != GLP_OPT) {
        call->master->failed = 1; /* numerical trouble: it would return */
        return;
    }
    read_solution(call->master);
    call->result = 0;
}

static void work_choose(call_t *call)
{
    glp_iocp options;

    glp_init_iocp(&options);
    options.msg_lev = GLP_MSG_OFF;
    options.cb_func = watch_choice;
    options.cb_info = call;
    glp_intopt(call->master->lp, &options);
    call->result = 0;
}

static void watch_choice(glp_tree *tree, void *arg)
{
    call_t *call = arg;

    (void)tree;
    if (coterie_search_over(call->search, call->solution) ||
        coterie_search_now() >= call->until) {
        call->search->cut = 1;
        glp_ios_terminate(tree);
    }
}

static void read_solution(coterie_master_t *master)
{
    uint32_t rows = master->layer_count * master->expert_count +
                    master->class_count;

    for (uint32_t i = 0; i < rows; i++)
        master->dual[i] = glp_get_row_dual(master->lp, i + 1) / master->scale;
    for (uint32_t c = 0; c < master->column_count; c++)
        master->columns[c].share = glp_get_col_prim(master->lp, c + 1);
}

static coterie_status_t room_grow(coterie_master_t *master)
{
    size_t room = master->column_room * 2;
    coterie_column_t *columns;
    uint32_t *masks;

    room = room > COLUMNS_FIRST ? room : COLUMNS_FIRST;
    columns = realloc(master->columns, room * sizeof(*columns));
    if (columns != NULL)
        master->columns = columns;
    masks = realloc(master->masks,
                    room * master->layer_count * sizeof(*masks));
    if (masks != NULL)
        master->masks = masks;
    if (columns == NULL || masks == NULL)
        return coterie_fail_memory(
            room * (sizeof(*columns) + master->layer_count * sizeof(*masks)),
            "columns");
    master->column_room = room;
    return COTERIE_OK;
}
