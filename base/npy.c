#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/npy.h"

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};

enum { HEADER_ALIGN = 64, KEY_COUNT = 3 };

/* Items are copied as they lie in the file. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian host");

/* The header is a Python dictionary; this walks its text. */
typedef struct cursor {
    const char *name;
    const char *at, *end;
} cursor_t;

static coterie_status_t header_span(const char *name,
                                    const unsigned char *bytes, size_t size,
                                    cursor_t *cursor);
static coterie_status_t dictionary_parse(cursor_t *cursor, coterie_npy_t *npy);
static coterie_status_t entry_parse(cursor_t *cursor, coterie_npy_t *npy,
                                    unsigned *seen);
static coterie_status_t type_parse(cursor_t *cursor, coterie_npy_t *npy);
static coterie_status_t order_parse(cursor_t *cursor);
static coterie_status_t shape_parse(cursor_t *cursor, coterie_npy_t *npy);
static int length_parse(cursor_t *cursor, uint64_t *length_p);
static int accept(cursor_t *cursor, const char *text);
static int text_parse(cursor_t *cursor, char *text, size_t size);
static coterie_status_t size_check(const char *name, coterie_npy_t *npy,
                                   size_t data_size);
static double half_value(uint16_t bits);

coterie_status_t coterie_npy_parse(const char *name, const void *bytes,
                                   size_t size, coterie_npy_t *npy)
{
    coterie_npy_t parsed = {0};
    const char *end = (const char *)bytes + size;
    cursor_t cursor = {.name = name};
    coterie_status_t status;

    status = header_span(name, bytes, size, &cursor);
    if (status != COTERIE_OK)
        return status;
    parsed.data = (const unsigned char *)cursor.end;
    status = dictionary_parse(&cursor, &parsed);
    if (status == COTERIE_OK)
        status = size_check(name, &parsed, (size_t)(end - cursor.end));
    if (status == COTERIE_OK)
        *npy = parsed;
    return status;
}

coterie_status_t coterie_npy_read(const char *path, coterie_npy_t *npy)
{
    void *data;
    size_t size;
    coterie_status_t status;

    status = coterie_file_read(path, PTRDIFF_MAX - 1, &data, &size);
    if (status != COTERIE_OK)
        return status;
    status = coterie_npy_parse(path, data, size, npy);
    if (status == COTERIE_OK)
        npy->buffer = data;
    else
        free(data);
    return status;
}

coterie_npy_t coterie_npy_describe(const char *type, const uint64_t *shape,
                                   const void *data)
{
    coterie_npy_t npy = {.kind = type[0],
                         .item_size = (uint32_t)(type[1] - '0'),
                         .count = 1,
                         .data = data};

    for (; shape[npy.ndim] != 0; npy.ndim++) {
        assert(npy.ndim < COTERIE_NPY_NDIM_MAX);
        npy.shape[npy.ndim] = shape[npy.ndim];
        npy.count *= shape[npy.ndim];
    }
    return npy;
}

size_t coterie_npy_header(const coterie_npy_t *npy,
                          char header[COTERIE_NPY_HEADER_MAX])
{
    enum { PREFIX = sizeof(magic) + 4 };
    size_t used = PREFIX, total;

    memset(header, ' ', COTERIE_NPY_HEADER_MAX);
    used += (size_t)sprintf(header + used,
                            "{'descr': '%c%c%u', 'fortran_order': False, "
                            "'shape': (",
                            npy->item_size == 1 ? '|' : '<', npy->kind,
                            npy->item_size);
    for (uint32_t i = 0; i < npy->ndim; i++)
        used += (size_t)sprintf(header + used, "%llu,%s",
                                (unsigned long long)npy->shape[i],
                                i + 1 < npy->ndim ? " " : "");
    used += (size_t)sprintf(header + used, "), }");
    header[used] = ' ';
    total = (used + 1 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    assert(total <= COTERIE_NPY_HEADER_MAX);
    header[total - 1] = '\n'; /* NumPy asks for one, and for alignment */
    memcpy(header, magic, sizeof(magic));
    header[6] = 1; /* version 1.0 */
    header[7] = 0;
    header[8] = (char)((total - PREFIX) & 0xff);
    header[9] = (char)((total - PREFIX) >> 8);
    return total;
}

int64_t coterie_npy_integer(const coterie_npy_t *npy, uint64_t index)
{
    const unsigned char *at = npy->data + index * npy->item_size;
    int is_signed = npy->kind == 'i';
    uint64_t wide;
    uint32_t word;
    uint16_t half;

    assert(npy->kind != 'f' && index < npy->count);
    switch (npy->item_size) {
    case 1:
        return is_signed ? (int8_t)at[0] : at[0];
    case 2:
        memcpy(&half, at, sizeof(half));
        return is_signed ? (int16_t)half : half;
    case 4:
        memcpy(&word, at, sizeof(word));
        return is_signed ? (int32_t)word : (int64_t)word;
    default:
        memcpy(&wide, at, sizeof(wide));
        return !is_signed && wide > INT64_MAX ? INT64_MAX : (int64_t)wide;
    }
}

double coterie_npy_number(const coterie_npy_t *npy, uint64_t index)
{
    const unsigned char *at = npy->data + index * npy->item_size;
    uint16_t half;
    float single;
    double number;

    assert(index < npy->count);
    if (npy->kind != 'f')
        return (double)coterie_npy_integer(npy, index);
    switch (npy->item_size) {
    case 2:
        memcpy(&half, at, sizeof(half));
        return half_value(half);
    case 4:
        memcpy(&single, at, sizeof(single));
        return (double)single;
    default:
        memcpy(&number, at, sizeof(number));
        return number;
    }
}

void coterie_npy_release(coterie_npy_t *npy)
{
    free(npy->buffer);
    memset(npy, 0, sizeof(*npy));
}

/* Finds the dictionary's text: from the end of the prefix to the data. */
static coterie_status_t header_span(const char *name,
                                    const unsigned char *bytes, size_t size,
                                    cursor_t *cursor)
{
    size_t prefix, length;

    /* 12: the longer prefix; even a scalar's dictionary makes more. */
    if (size < 12 || memcmp(bytes, magic, sizeof(magic)) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: not a .npy array", name);
    if (bytes[6] < 1 || bytes[6] > 3)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: .npy version %u.%u; 1.0 to 3.0 can be read",
                            name, bytes[6], bytes[7]);
    prefix = bytes[6] == 1 ? 10 : 12; /* a length of 2 bytes, then of 4 */
    length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (prefix == 12)
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (length > size - prefix)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the header claims %zu bytes, the file has %zu "
                            "after its start",
                            name, length, size - prefix);
    cursor->at = (const char *)bytes + prefix;
    cursor->end = cursor->at + length;
    return COTERIE_OK;
}

/* Python may write the keys in any order, with a comma behind the last. */
static coterie_status_t dictionary_parse(cursor_t *cursor, coterie_npy_t *npy)
{
    unsigned seen = 0;
    int closed;

    if (!accept(cursor, "{"))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the .npy header is not a dictionary",
                            cursor->name);
    while (!(closed = accept(cursor, "}"))) {
        coterie_status_t status = entry_parse(cursor, npy, &seen);
        if (status != COTERIE_OK)
            return status;
        if (!accept(cursor, ",")) {
            closed = accept(cursor, "}");
            break;
        }
    }
    accept(cursor, ""); /* the padding */
    if (!closed || cursor->at != cursor->end || seen != (1 << KEY_COUNT) - 1)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the .npy header is cut off, or lacks descr, "
                            "fortran_order or shape",
                            cursor->name);
    return COTERIE_OK;
}

static coterie_status_t entry_parse(cursor_t *cursor, coterie_npy_t *npy,
                                    unsigned *seen)
{
    static const char *const keys[KEY_COUNT] = {"descr", "fortran_order",
                                                "shape"};
    char key[16];
    unsigned which = 0;

    if (!text_parse(cursor, key, sizeof(key)) || !accept(cursor, ":"))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the .npy header holds no key and value where "
                            "one is due",
                            cursor->name);
    while (which < KEY_COUNT && strcmp(key, keys[which]) != 0)
        which++;
    if (which == KEY_COUNT || (*seen & 1u << which) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the .npy header's key '%s' is unknown or "
                            "comes twice",
                            cursor->name, key);
    *seen |= 1u << which;
    if (which == 0)
        return type_parse(cursor, npy);
    return which == 1 ? order_parse(cursor) : shape_parse(cursor, npy);
}

static coterie_status_t type_parse(cursor_t *cursor, coterie_npy_t *npy)
{
    char type[8];

    if (!text_parse(cursor, type, sizeof(type)))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: a structured dtype; plain integers or floats "
                            "can be read",
                            cursor->name);
    if (type[0] == '>')
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: dtype %s is big-endian; little-endian can be "
                            "read",
                            cursor->name, type);
    if (strlen(type) != 3 || strchr("<|=", type[0]) == NULL ||
        strchr("iuf", type[1]) == NULL || strchr("1248", type[2]) == NULL ||
        (type[1] == 'f' && type[2] == '1'))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: dtype %s; integers of 1 to 8 bytes and floats "
                            "of 2 to 8 can be read",
                            cursor->name, type);
    npy->kind = type[1];
    npy->item_size = (uint32_t)(type[2] - '0');
    return COTERIE_OK;
}

static coterie_status_t order_parse(cursor_t *cursor)
{
    if (accept(cursor, "True"))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: Fortran order; save it in C order "
                            "(numpy.ascontiguousarray)",
                            cursor->name);
    if (!accept(cursor, "False"))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: fortran_order is neither True nor False",
                            cursor->name);
    return COTERIE_OK;
}

static coterie_status_t shape_parse(cursor_t *cursor, coterie_npy_t *npy)
{
    int more = 1;

    if (!accept(cursor, "("))
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: shape is not a tuple",
                            cursor->name);
    npy->ndim = 0;
    while (!accept(cursor, ")")) {
        uint64_t length;
        if (!more || !length_parse(cursor, &length))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: shape holds something other than lengths",
                                cursor->name);
        if (npy->ndim == COTERIE_NPY_NDIM_MAX)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: more than %d dimensions", cursor->name,
                                COTERIE_NPY_NDIM_MAX);
        npy->shape[npy->ndim++] = length;
        more = accept(cursor, ",");
    }
    return COTERIE_OK;
}

/* 0 if there is none: a sign, or a number that no 64 bits hold. */
static int length_parse(cursor_t *cursor, uint64_t *length_p)
{
    uint64_t length = 0;
    const char *start;

    accept(cursor, "");
    start = cursor->at;
    while (cursor->at < cursor->end && *cursor->at >= '0' &&
           *cursor->at <= '9') {
        if (length > (UINT64_MAX - 9) / 10)
            return 0;
        length = length * 10 + (uint64_t)(*cursor->at++ - '0');
    }
    *length_p = length;
    return cursor->at > start;
}

/* Skips blanks, then takes `text` if it is next. */
static int accept(cursor_t *cursor, const char *text)
{
    size_t length = strlen(text);

    while (cursor->at < cursor->end &&
           (*cursor->at == ' ' || *cursor->at == '\n'))
        cursor->at++;
    if ((size_t)(cursor->end - cursor->at) < length ||
        memcmp(cursor->at, text, length) != 0)
        return 0;
    cursor->at += length;
    return 1;
}

/* A quoted text that fits `size`; 0 if there is none. */
static int text_parse(cursor_t *cursor, char *text, size_t size)
{
    char quote;
    size_t length = 0;

    accept(cursor, "");
    if (cursor->at == cursor->end ||
        (*cursor->at != '\'' && *cursor->at != '"'))
        return 0;
    quote = *cursor->at++;
    while (cursor->at < cursor->end && *cursor->at != quote) {
        if (length + 1 == size)
            return 0;
        text[length++] = *cursor->at++;
    }
    text[length] = 0;
    return accept(cursor, quote == '"' ? "\"" : "'");
}

/* Exactly the shape's bytes must follow: fewer are a file cut off, more are a
 * second array or another dtype than the header says. */
static coterie_status_t size_check(const char *name, coterie_npy_t *npy,
                                   size_t data_size)
{
    uint64_t bytes = npy->item_size;

    for (uint32_t i = 0; i < npy->ndim; i++)
        if (__builtin_mul_overflow(bytes, npy->shape[i], &bytes))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: its shape is larger than memory", name);
    if (bytes != data_size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: its shape needs %llu bytes, %zu follow the "
                            "header",
                            name, (unsigned long long)bytes, data_size);
    npy->count = bytes / npy->item_size;
    return COTERIE_OK;
}

/* No type of C's own is IEEE's 16-bit float. */
static double half_value(uint16_t bits)
{
    int exponent = bits >> 10 & 0x1f;
    double fraction = bits & 0x3ff;
    double sign = bits >> 15 ? -1 : 1;

    if (exponent == 0x1f)
        return fraction > 0 ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, -24);
    return sign * ldexp(fraction + 1024, exponent - 25);
}
