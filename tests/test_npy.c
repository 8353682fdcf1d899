#include "config.h"

#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/trace_files.h"

TestSuite(npy, .init = files_make, .fini = files_remove);
TestSuite(npz, .init = files_make, .fini = files_remove);

static const int32_t numbers[] = {1, -2, 3, -4, 5, 6};

static void expect_refused(const char *dictionary, coterie_status_t status,
                           const char *part)
{
    coterie_npy_t array = {0};

    npy_put("a.npy", dictionary, numbers, sizeof(numbers));
    cr_expect(eq(int, coterie_npy_read(file_path("a.npy"), &array), status));
    cr_expect(zero(ptr, array.buffer)); /* untouched on failure */
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

Test(npy, reads_what_it_wrote)
{
    uint64_t shape[] = {2, 3, 0};
    coterie_npy_t array;

    array_put("a.npy", "i4", shape, numbers);
    cr_assert(eq(int, coterie_npy_read(file_path("a.npy"), &array),
                 COTERIE_OK));
    cr_expect(eq(u32, array.ndim, 2));
    cr_expect(eq(u64, array.shape[1], 3));
    for (uint64_t i = 0; i < 6; i++)
        cr_expect(eq(i64, coterie_npy_integer(&array, i), numbers[i]));
    coterie_npy_release(&array);
}

Test(npy, pads_its_header_so_that_data_begin_at_64)
{
    uint64_t shape[] = {6, 0};
    coterie_npy_t array = coterie_npy_describe("i4", shape, numbers);
    char header[COTERIE_NPY_HEADER_MAX];
    size_t size = coterie_npy_header(&array, header);

    cr_expect(eq(sz, size % 64, 0));
    cr_expect(eq(chr, header[size - 1], '\n'));
}

Test(npy, takes_the_keys_in_any_order_and_wide_headers)
{
    static const char wide[] =
        "\x93NUMPY\x02\x00\x3d\x00\x00\x00"
        "{\"shape\":(1,), 'fortran_order': False , 'descr' : '|u1'}    \n\x07";
    coterie_npy_t array;

    cr_assert(eq(int, coterie_npy_parse("a", wide, sizeof(wide) - 1, &array),
                 COTERIE_OK),
              "%s", coterie_last_error());
    cr_expect(eq(i64, coterie_npy_integer(&array, 0), 7));
}

Test(npy, gives_numbers_of_every_type)
{
    static const uint16_t half[] = {0x3c00, 0xb800, 0x0001, 0x7c00};
    static const double wide[] = {0.1};
    static const uint64_t huge[] = {UINT64_MAX};
    uint64_t four[] = {4, 0}, one[] = {1, 0};
    coterie_npy_t array = coterie_npy_describe("f2", four, half);

    cr_expect(eq(dbl, coterie_npy_number(&array, 0), 1.0));
    cr_expect(eq(dbl, coterie_npy_number(&array, 1), -0.5));
    cr_expect(eq(dbl, coterie_npy_number(&array, 2), 0x1p-24));
    cr_expect(gt(dbl, coterie_npy_number(&array, 3), 1e300)); /* infinite */
    array = coterie_npy_describe("f8", one, wide);
    cr_expect(eq(dbl, coterie_npy_number(&array, 0), 0.1));
    array = coterie_npy_describe("u8", one, huge);
    cr_expect(eq(i64, coterie_npy_integer(&array, 0), INT64_MAX));
}

Test(npy, refuses_what_it_cannot_read_and_says_why)
{
    expect_refused("{'descr': '<i4', 'fortran_order': True, 'shape': (6,)}",
                   COTERIE_ERR_UNSUPPORTED, "Fortran order");
    expect_refused("{'descr': '>i4', 'fortran_order': False, 'shape': (6,)}",
                   COTERIE_ERR_UNSUPPORTED, "big-endian");
    expect_refused("{'descr': '|O', 'fortran_order': False, 'shape': (6,)}",
                   COTERIE_ERR_UNSUPPORTED, "dtype |O");
    expect_refused("{'descr': [('a', '<i4')], 'fortran_order': False, "
                   "'shape': (6,)}",
                   COTERIE_ERR_UNSUPPORTED, "structured");
    expect_refused("{'descr': '<i4', 'fortran_order': False, "
                   "'shape': (1, 1, 1, 1, 6)}",
                   COTERIE_ERR_UNSUPPORTED, "dimensions");
}

Test(npy, refuses_shapes_that_are_not_what_follows)
{
    expect_refused("{'descr': '<i4', 'fortran_order': False, 'shape': (7,)}",
                   COTERIE_ERR_FORMAT, "needs 28 bytes, 24 follow");
    expect_refused("{'descr': '<i4', 'fortran_order': False, 'shape': (5,)}",
                   COTERIE_ERR_FORMAT, "needs 20 bytes, 24 follow");
    expect_refused("{'descr': '<i4', 'fortran_order': False, "
                   "'shape': (4294967296, 4294967296, 4)}",
                   COTERIE_ERR_FORMAT, "larger than memory");
    expect_refused("{'descr': '<i4', 'fortran_order': False, "
                   "'shape': (99999999999999999999999,)}",
                   COTERIE_ERR_FORMAT, "shape");
    expect_refused("{'descr': '<i4', 'fortran_order': False, 'shape': (-6,)}",
                   COTERIE_ERR_FORMAT, "shape");
}

Test(npy, refuses_headers_that_are_cut_off_or_repeat_themselves)
{
    expect_refused("{'descr': '<i4', 'fortran_order': False", //
                   COTERIE_ERR_FORMAT, "cut off");
    expect_refused("{'descr': '<i4', 'shape': (6,)}", COTERIE_ERR_FORMAT,
                   "lacks");
    expect_refused("{'descr': '<i4', 'descr': '<i4', 'shape': (6,)}",
                   COTERIE_ERR_FORMAT, "twice");
    expect_refused("{'descr': '<i4', 'fortran_order': False, 'shape': (6,)} x",
                   COTERIE_ERR_FORMAT, "cut off");
    expect_refused("[]", COTERIE_ERR_FORMAT, "dictionary");
}

Test(npy, refuses_a_header_longer_than_the_file)
{
    static const char bytes[] = "\x93NUMPY\x01\x00\xff\xff{'descr': '<i4'}";
    coterie_npy_t array = {0};

    cr_expect(eq(int, coterie_npy_parse("a", bytes, sizeof(bytes), &array),
                 COTERIE_ERR_FORMAT));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "claims 65535"), NULL));
}

Test(npy, never_reads_past_a_file_cut_anywhere)
{
    uint64_t shape[] = {6, 0};
    coterie_npy_t array = coterie_npy_describe("i4", shape, numbers);
    char whole[COTERIE_NPY_HEADER_MAX + sizeof(numbers)];
    size_t size = coterie_npy_header(&array, whole);

    memcpy(whole + size, numbers, sizeof(numbers));
    for (size_t cut = 0; cut < size + sizeof(numbers); cut++)
        cr_expect(eq(int, coterie_npy_parse("a", whole, cut, &array),
                     COTERIE_ERR_FORMAT));
}

Test(npz, reads_deflated_entries)
{
    uint64_t shape[] = {6, 0};
    coterie_npz_entry_t entry = {"a",
                                 coterie_npy_describe("i4", shape, numbers)};
    coterie_npz_t *npz = NULL;
    coterie_npy_t array = {0};

    npz_put("a.npz", &entry, 1);
    cr_assert(eq(int, coterie_npz_open(file_path("a.npz"), &npz), COTERIE_OK));
    cr_expect(eq(int, coterie_npz_read(npz, "a", &array), COTERIE_OK));
    cr_expect(eq(i64, coterie_npy_integer(&array, 1), -2));
    cr_expect(eq(int, coterie_npz_read(npz, "b", &array),
                 COTERIE_ERR_NOT_FOUND));
    coterie_npy_release(&array);
    coterie_npz_close(npz);
}
