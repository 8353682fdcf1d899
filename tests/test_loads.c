#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/loads.h>

#include "tests/trace_files.h"

TestSuite(loads, .init = files_make, .fini = files_remove);

/* Expects these windows of two layers of three experts. */
static void expect_loads(const char *path, uint64_t windows,
                         const double *wanted)
{
    coterie_loads_t *loads = NULL;
    coterie_loads_view_t view;

    cr_assert(eq(int, COTERIE_OK, coterie_loads_read(path, &loads)), "%s",
              coterie_last_error());
    coterie_loads_view(loads, &view);
    cr_assert(eq(u64, view.window_count, windows));
    cr_assert(eq(u32, view.layer_count, 2));
    cr_assert(eq(u32, view.expert_count, 3));
    for (uint64_t i = 0; i < windows * 6; i++)
        cr_expect(eq(dbl, view.load[i], wanted[i]), "%d", (int)i);
    coterie_loads_destroy(loads);
}

static void expect_none(const char *path, const char *part)
{
    coterie_loads_t *loads = NULL;

    cr_expect(eq(int, COTERIE_ERR_FORMAT, coterie_loads_read(path, &loads)));
    cr_expect(zero(ptr, loads));
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

static const double counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

Test(loads, of_sglang_are_layers_or_steps_of_them)
{
    text_put("a", "{\"logical_count\": [[1, 2, 3], [4, 5, 6]]}");
    expect_loads(file_path("a"), 1, counts);
    text_put("b", "{\"rank\": 0, \"logical_count\": [[[1,2,3],[4,5,6]], "
                  "[[7,8,9],[10,11,12]]]}");
    expect_loads(file_path("b"), 2, counts);
    text_put("c", "[[1, 2, 3], [4, 5, 6.0]]");
    expect_loads(file_path("c"), 1, counts);
}

Test(loads, are_read_from_arrays)
{
    const uint64_t sums[] = {2, 3, 0}, requests[] = {2, 2, 3, 0};
    const uint16_t small[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

    array_put("a.npy", "f8", sums, counts);
    expect_loads(file_path("a.npy"), 1, counts);
    array_put("b.npy", "u2", requests, small);
    expect_loads(file_path("b.npy"), 2, counts);
}

/* A file of int32 tensors of three experts each. */
static void tensors_put(const char *name, const char *const *keys,
                        const int32_t *values)
{
    char header[1024] = "{\"__metadata__\": {\"format\": \"pt\"}";
    unsigned char size[8] = {0};
    int count = 0;
    FILE *stream = fopen(file_path(name), "wb");

    for (; keys[count] != NULL; count++)
        snprintf(header + strlen(header), sizeof(header) - strlen(header),
                 ", \"%s\": {\"dtype\": \"I32\", \"shape\": [3], "
                 "\"data_offsets\": [%d, %d]}",
                 keys[count], 12 * count, 12 * count + 12);
    strcat(header, "}");
    size[0] = (unsigned char)(strlen(header) & 255);
    size[1] = (unsigned char)(strlen(header) >> 8);
    cr_assert(ne(ptr, stream, NULL));
    fwrite(size, 1, 8, stream);
    fwrite(header, 1, strlen(header), stream);
    fwrite(values, 12, (size_t)count, stream);
    fclose(stream);
}

Test(loads, of_tensorrt_add_up_over_ranks)
{
    /* Layers 3 and 7 of the model, iterations 9 and 10, in any order. */
    const char *const keys[] = {"10_3", "9_7", "9_3", "10_7", NULL};
    const int32_t one[] = {7, 8, 9, 4, 5, 6, 1, 2, 3, 10, 11, 12};
    const int32_t two[] = {0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 5};
    const double both[] = {2, 2, 3, 4, 5, 7, 7, 8, 9, 10, 11, 17};
    char folder[256];
    char *slash;

    tensors_put("rank0.safetensors", keys, one);
    expect_loads(file_path("rank0.safetensors"), 2, counts);
    tensors_put("rank1.safetensors", keys, two);
    snprintf(folder, sizeof(folder), "%s", file_path("rank0.safetensors"));
    slash = strrchr(folder, '/');
    *slash = '\0';
    expect_loads(folder, 2, both);
}

Test(loads, that_are_malformed_are_refused_with_the_place)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "no loads"},
        {"{\"load\": []}", "no logical_count"},
        {"[[1, 2], [3]]", "a layer has 1 experts; the first has 2"},
        {"[[[1, 2]], [[1, 2], [3, 4]]]", "window 1 has 2 layers"},
        {"[[1, \"x\"]]", "expert 1 of a layer: not a number"},
        {"[[1, -1]]", "has -1; a count is 0 or more"},
        {"[1, 2]", "no logical_count"},
    };
    const char *const keys[] = {"9_3", "10_4", "10_5", NULL};
    const char *const named[] = {"weights", NULL};
    const int32_t values[9] = {0};
    const uint64_t shape[] = {4, 0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_put("loads", cases[i].text);
        expect_none(file_path("loads"), cases[i].part);
    }
    array_put("a.npy", "f8", shape, counts);
    expect_none(file_path("a.npy"), "1 dimensions");
    tensors_put("t", keys, values);
    expect_none(file_path("t"), "counts of different layers");
    tensors_put("t", named, values);
    expect_none(file_path("t"), "tensor weights is no count");
}
