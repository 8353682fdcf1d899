#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "base/npy.h"
#include "tests/command.h"
#include "tests/models.h"

/* A prompt as long as this says enough about the logits; nothing is drawn but
 * the token after it. */
static const char *const asked =
    "--prompt 'The group had its first long talk about the rules.' "
    "--prompt 'for (int i = 0; i < count; i++)' --tokens 1";

enum { FIRST = COTERIE_DTYPE_F32, LAST = COTERIE_DTYPE_MXFP4 };

static char folder[PATH_SIZE], model[PATH_SIZE], store[PATH_SIZE],
    logits[PATH_SIZE];

static void names_make(void)
{
    folder_make(folder);
    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", model);
    path_in(folder, "store", store);
    path_in(folder, "logits.npy", logits);
}

static void names_remove(void)
{
    folder_remove(folder);
}

TestSuite(dtypes, .init = names_make, .fini = names_remove, .timeout = 120);

static void pack_as(const char *dtype)
{
    called_t called;

    command_call(&called, "pack '%s' -o '%s' --force --dtype %s", model, store,
                 dtype);
    cr_assert(zero(int, called.code), "%s", called.err);
    called_free(&called);
}

static coterie_npy_t logits_of(const char *weights, const char *options)
{
    coterie_npy_t npy;
    json_t *run = command_json("run '%s' %s --logits '%s' --force --json %s "
                               "2>/dev/null",
                               weights, asked, logits, options);

    json_decref(run);
    cr_assert(coterie_npy_read(logits, &npy) == COTERIE_OK, "%s",
              coterie_last_error());
    return npy;
}

/* Root of the mean square of the difference, over that of a. */
static double distance(const coterie_npy_t *a, const coterie_npy_t *b)
{
    double off = 0, whole = 0;

    cr_assert(eq(u64, a->count, b->count));
    for (uint64_t i = 0; i < a->count; i++) {
        double x = coterie_npy_number(a, i), y = coterie_npy_number(b, i);
        off += (x - y) * (x - y);
        whole += x * x;
    }
    return sqrt(off / whole);
}

/* What doc/kernels.md measures, with room for a short prompt's luck. */
Test(dtypes, of_every_kind_give_logits_as_near_as_documented)
{
    static const double most[] = {0,    1e-6, 1e-6, 0,    0.02,
                                  0.02, 0.06, 0.06, 0.03, 0.1};
    coterie_npy_t right = logits_of(model, "");
    for (uint32_t dtype = FIRST; dtype <= LAST; dtype++) {
        json_t *info;
        coterie_npy_t found, budget;
        const char *name = coterie_dtype_name(dtype);
        pack_as(name);
        info = command_json("info '%s' --json", store);
        cr_expect(eq(str,
                     (char *)json_string_value(json_object_get(
                         json_object_get(info, "records"), "dtype")),
                     (char *)name));
        found = logits_of(store, "");
        cr_expect(le(dbl, distance(&right, &found), most[dtype]), "%s", name);
        budget = logits_of(store, "--budget 30% --ranks 2");
        cr_expect(le(dbl, distance(&found, &budget), 1e-5), "%s", name);
        json_decref(info);
        coterie_npy_release(&found);
        coterie_npy_release(&budget);
    }
    coterie_npy_release(&right);
}

Test(dtypes, meet_rounded_rows_with_little_loss)
{
    static const struct {
        const char *dtype, *compute;
        double most;
    } ways[] = {{"bf16", "bf16", 0.01},
                {"fp8", "bf16", 0.01},
                {"int8-group", "int8", 0.03},
                {"mxfp4", "int8", 0.03}};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        coterie_npy_t exact, found;
        char options[64];
        pack_as(ways[i].dtype);
        snprintf(options, sizeof(options), "--compute %s", ways[i].compute);
        exact = logits_of(store, "");
        found = logits_of(store, options);
        cr_expect(le(dbl, distance(&exact, &found), ways[i].most), "%s, %s",
                  ways[i].dtype, ways[i].compute);
        cr_expect(gt(dbl, distance(&exact, &found), 0), "%s, %s",
                  ways[i].dtype, ways[i].compute);
        coterie_npy_release(&exact);
        coterie_npy_release(&found);
    }
}

Test(dtypes, without_such_products_or_names_are_refused)
{
    expect_refused(1, "compute", "run '%s' %s --compute int8", model, asked);
    expect_refused(1, "int8-group", "pack '%s' -o '%s' --dtype q8_0", model,
                   store);
}
