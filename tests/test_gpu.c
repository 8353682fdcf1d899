/* The GPU's kernels, the same sources built for the CPU (tests/emulated): no
 * GPU is needed to see that they compute what they should. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "tests/emulated/kernels.h"
#include "tests/gpu_checks.h"

static const coterie_gpu_kernels_t emulated_kernels = {
    emulated_gpu_narrow, emulated_gpu_sort, emulated_gpu_ffn,
    emulated_gpu_combine, emulated_gpu_router, emulated_gpu_send,
    emulated_gpu_arrive, emulated_gpu_give_back, emulated_gpu_finish,
    emulated_gpu_permute, emulated_gpu_unpack, emulated_gpu_activate,
    emulated_gpu_deliver};

/* By its place, since every test runs in a process of its own. */
ParameterizedTestParameters(gpu, holds_when_emulated)
{
    static size_t place[64];
    size_t count = 0;

    for (; gpu_checks[count].name != NULL; count++)
        place[count] = count;
    return cr_make_param_array(size_t, place, count);
}

ParameterizedTest(size_t *place, gpu, holds_when_emulated)
{
    const gpu_check_t *check = &gpu_checks[*place];
    coterie_device_t *device = NULL;

    cr_assert_eq(coterie_device_open("host", &device), COTERIE_OK);
    device->kernels = &emulated_kernels;
    device->blocks = 3;
    device->wide = true;
    cr_expect(check->holds(device), "%s", check->name);
    coterie_device_close(device);
}

Test(gpu, says_why_there_is_none)
{
    coterie_device_t *device = NULL;

    if (coterie_device_count() > 0)
        cr_skip_test("this machine has a GPU");
    cr_expect(coterie_last_error()[0] != '\0');
    cr_expect_neq(coterie_device_open("cuda", &device), COTERIE_OK);
    cr_expect_null(device);
}

Test(gpu, refuses_names_it_does_not_know)
{
    const char *const names[] = {"",       "gpu",     "cuda:",  "cuda:x",
                                 "cuda0",  "cuda:-1", "host:0", "cuda:1x",
                                 "cuda: 1"};
    coterie_device_t *device = NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        cr_expect_eq(coterie_device_open(names[i], &device),
                     COTERIE_ERR_INVALID, "%s", names[i]);
    cr_expect_null(device);
}
