#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/convert.h"
#include "experts/matrix.h"

enum { FLOATS = 0 }; /* any dtype whose elements are values themselves */

/* What is read of a matrix: a slice of each tensor, as it is stored. */
typedef struct slices {
    unsigned char *weight, *scale;
    float *bias;
} slices_t;

static coterie_status_t own_find(const coterie_tensors_t *tensors,
                                 const char *path,
                                 const coterie_tensor_spec_t *spec,
                                 coterie_matrix_t *m);
static coterie_status_t fused_find(const coterie_tensors_t *tensors,
                                   const char *path,
                                   const coterie_tensor_spec_t *spec,
                                   uint32_t part, coterie_matrix_t *m);
static coterie_status_t fused_blocks_find(const coterie_tensors_t *tensors,
                                          const char *path,
                                          const coterie_tensor_spec_t *spec,
                                          coterie_matrix_t *m);
static coterie_tensor_spec_t companion_of(const coterie_tensor_spec_t *spec,
                                          const char *suffix);
static coterie_status_t typed_find(const coterie_tensors_t *tensors,
                                   const char *path,
                                   const coterie_tensor_spec_t *spec,
                                   uint32_t dtype,
                                   coterie_tensor_t **tensor_p);
static coterie_status_t slice_read(const coterie_matrix_t *m,
                                   const coterie_datafile_t *files,
                                   const coterie_tensor_t *tensor,
                                   unsigned char **slice_p);
static coterie_status_t bias_read(const coterie_matrix_t *m,
                                  const coterie_datafile_t *files,
                                  float **bias_p);
static void rows_take(const coterie_matrix_t *m, const slices_t *s,
                      uint32_t first, coterie_band_t *band);
static void row_take(const coterie_matrix_t *m, const unsigned char *slice,
                     uint32_t row, unsigned char *to);
static void codes_take(const coterie_matrix_t *m, const unsigned char *slice,
                       uint32_t row, unsigned char *to);

coterie_status_t coterie_matrix_find(const coterie_tensors_t *tensors,
                                     const char *path,
                                     const coterie_shape_t *shape,
                                     const coterie_expert_name_t *name,
                                     coterie_matrix_t *matrix_p)
{
    const coterie_model_config_t *config = &shape->config;
    const int down = name->part == COTERIE_EXPERT_PARTS - 1;
    coterie_matrix_t m = {.out = down ? config->hidden : config->ffn,
                          .in = down ? config->ffn : config->hidden,
                          .slices = 1,
                          .step = 1};
    coterie_tensor_spec_t spec;
    coterie_status_t status;

    coterie_names_expert(shape, name, &spec);
    m.rows = m.out;
    if (config->arch == COTERIE_ARCH_GPT_OSS) {
        m.slice = name->expert;
        m.slices = config->experts;
        status = fused_find(tensors, path, &spec, name->part, &m);
    } else {
        status = own_find(tensors, path, &spec, &m);
    }
    if (status == COTERIE_OK)
        *matrix_p = m;
    return status;
}

coterie_status_t coterie_matrix_read(const coterie_matrix_t *matrix,
                                     const coterie_datafile_t *files,
                                     const coterie_expert_format_t *format,
                                     uint32_t part, void *record)
{
    coterie_record_part_t place = coterie_record_part(format, part);
    slices_t s = {0};
    coterie_band_t band = {0};
    coterie_status_t status =
        coterie_band_create(matrix->dtype, matrix->in, &band);

    if (status == COTERIE_OK)
        status = slice_read(matrix, files, matrix->weight, &s.weight);
    if (status == COTERIE_OK && matrix->scale != NULL)
        status = slice_read(matrix, files, matrix->scale, &s.scale);
    if (status == COTERIE_OK && matrix->bias != NULL)
        status = bias_read(matrix, files, &s.bias);
    for (uint32_t first = 0; status == COTERIE_OK && first < matrix->out;
         first += COTERIE_BAND_ROWS) {
        uint32_t left = matrix->out - first;
        band.rows = left < COTERIE_BAND_ROWS ? left : COTERIE_BAND_ROWS;
        rows_take(matrix, &s, first, &band);
        coterie_record_put(format, part, first, &band, record);
    }
    for (uint32_t r = 0; s.bias != NULL && status == COTERIE_OK &&
                         r < matrix->out; r++)
        memcpy((float *)((char *)record + place.bias) + r,
               s.bias + matrix->first + r * matrix->step, sizeof(float));
    coterie_band_clear(&band);
    free(s.weight);
    free(s.scale);
    free(s.bias);
    return status;
}

/* A tensor of its own: of floats, or DeepSeek-V3's blocks of fp8. */
static coterie_status_t own_find(const coterie_tensors_t *tensors,
                                 const char *path,
                                 const coterie_tensor_spec_t *spec,
                                 coterie_matrix_t *m)
{
    coterie_tensor_spec_t scale;
    const coterie_tensor_t *found = coterie_tensors_find(tensors, spec->name);
    coterie_status_t status;

    m->dtype = found != NULL && found->dtype == COTERIE_DTYPE_FP8
                   ? COTERIE_DTYPE_FP8
                   : FLOATS;
    status = typed_find(tensors, path, spec, m->dtype, &m->weight);
    if (status != COTERIE_OK)
        return status;
    m->dtype = m->weight->dtype;
    if (m->dtype != COTERIE_DTYPE_FP8)
        return COTERIE_OK;
    coterie_names_scale(spec, &scale);
    return typed_find(tensors, path, &scale, COTERIE_DTYPE_F32, &m->scale);
}

/* gpt-oss: all of a layer's in one tensor, gate and up in turns. In floats a
 * matrix has its outputs along the columns. */
static coterie_status_t fused_find(const coterie_tensors_t *tensors,
                                   const char *path,
                                   const coterie_tensor_spec_t *spec,
                                   uint32_t part, coterie_matrix_t *m)
{
    const coterie_tensor_spec_t blocks = companion_of(spec, "_blocks");
    coterie_tensor_spec_t bias = companion_of(spec, "_bias");
    coterie_status_t status;

    if (part < COTERIE_EXPERT_PARTS - 1) {
        m->first = part;
        m->step = 2;
        m->rows = 2 * m->out;
    }
    bias.rank = 2;
    bias.shape[1] = m->rows;
    status = typed_find(tensors, path, &bias, FLOATS, &m->bias);
    if (status != COTERIE_OK)
        return status;
    if (coterie_tensors_find(tensors, blocks.name) != NULL)
        return fused_blocks_find(tensors, path, spec, m);
    m->columns = 1;
    status = typed_find(tensors, path, spec, FLOATS, &m->weight);
    if (status == COTERIE_OK)
        m->dtype = m->weight->dtype;
    return status;
}

/* In mxfp4 outputs are rows: of groups of 16 bytes, and of their scales. */
static coterie_status_t fused_blocks_find(const coterie_tensors_t *tensors,
                                          const char *path,
                                          const coterie_tensor_spec_t *spec,
                                          coterie_matrix_t *m)
{
    coterie_tensor_spec_t blocks = companion_of(spec, "_blocks");
    coterie_tensor_spec_t scales = companion_of(spec, "_scales");
    coterie_status_t status;

    blocks.rank = 4;
    scales.rank = 3;
    blocks.shape[1] = scales.shape[1] = m->rows;
    blocks.shape[2] = scales.shape[2] = m->in / COTERIE_PANEL_GROUP;
    blocks.shape[3] = COTERIE_PANEL_GROUP / 2;
    m->dtype = COTERIE_DTYPE_MXFP4;
    status = typed_find(tensors, path, &blocks, COTERIE_TENSOR_BYTES,
                        &m->weight);
    if (status == COTERIE_OK)
        status = typed_find(tensors, path, &scales, COTERIE_TENSOR_BYTES,
                            &m->scale);
    return status;
}

static coterie_tensor_spec_t companion_of(const coterie_tensor_spec_t *spec,
                                          const char *suffix)
{
    coterie_tensor_spec_t companion = *spec;
    size_t used = strlen(spec->name);

    snprintf(companion.name + used, sizeof(companion.name) - used, "%s",
             suffix);
    return companion;
}

/* A tensor of a shape and a dtype, or of any FLOATS. */
static coterie_status_t typed_find(const coterie_tensors_t *tensors,
                                   const char *path,
                                   const coterie_tensor_spec_t *spec,
                                   uint32_t dtype, coterie_tensor_t **tensor_p)
{
    coterie_tensor_t *tensor = NULL;
    coterie_status_t status = coterie_names_find(tensors, path, spec, &tensor);

    if (status != COTERIE_OK)
        return status;
    if (dtype == FLOATS ? coterie_tensor_element(tensor->dtype) == 1
                        : tensor->dtype != dtype)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: %s has dtype %s; %s is right there", path,
                            tensor->name,
                            coterie_tensor_dtype_name(tensor->dtype),
                            dtype == FLOATS
                                ? "F32, F16 or BF16"
                                : coterie_tensor_dtype_name(dtype));
    *tensor_p = tensor;
    return COTERIE_OK;
}

static coterie_status_t slice_read(const coterie_matrix_t *m,
                                   const coterie_datafile_t *files,
                                   const coterie_tensor_t *tensor,
                                   unsigned char **slice_p)
{
    uint64_t size = tensor->size / m->slices;
    unsigned char *slice = malloc(size + 1); /* malloc(0) may be NULL */

    *slice_p = slice;
    if (slice == NULL)
        return coterie_fail_memory(size, "an expert's matrix");
    return coterie_datafile_read(&files[tensor->file],
                                 tensor->offset + m->slice * size, slice,
                                 size);
}

static coterie_status_t bias_read(const coterie_matrix_t *m,
                                  const coterie_datafile_t *files,
                                  float **bias_p)
{
    uint64_t element = coterie_tensor_element(m->bias->dtype);
    uint64_t size = m->rows * element;
    float *bias = malloc(m->rows * sizeof(*bias));
    coterie_status_t status;

    *bias_p = bias;
    if (bias == NULL)
        return coterie_fail_memory(size, "an expert's bias");
    status = coterie_datafile_read(
        &files[m->bias->file], m->bias->offset + m->slice * size,
        (char *)bias + m->rows * (sizeof(*bias) - element), size);
    if (status == COTERIE_OK)
        coterie_widen(m->bias->dtype, m->rows, bias);
    return status;
}

static void rows_take(const coterie_matrix_t *m, const slices_t *s,
                      uint32_t first, coterie_band_t *band)
{
    const uint64_t size = (uint64_t)m->in * coterie_band_element(m->dtype);
    const uint64_t groups = m->in / COTERIE_PANEL_GROUP;

    if (m->dtype == COTERIE_DTYPE_FP8) {
        uint64_t scales = coterie_band_scales(m->dtype, band->rows, m->in);
        memcpy(band->scales, s->scale + first / COTERIE_FP8_BLOCK * scales,
               scales);
    }
    for (uint32_t r = 0; r < band->rows; r++) {
        uint32_t row = m->first + (first + r) * m->step;
        unsigned char *to = (unsigned char *)band->elements + r * size;
        if (m->dtype != COTERIE_DTYPE_MXFP4) {
            row_take(m, s->weight, row, to);
            continue;
        }
        codes_take(m, s->weight, row, to);
        memcpy((unsigned char *)band->scales + r * groups,
               s->scale + row * groups, groups);
    }
}

static void row_take(const coterie_matrix_t *m, const unsigned char *slice,
                     uint32_t row, unsigned char *to)
{
    const size_t element = coterie_band_element(m->dtype);

    if (!m->columns)
        memcpy(to, slice + (size_t)row * m->in * element, m->in * element);
    for (size_t i = 0; m->columns && i < m->in; i++)
        memcpy(to + i * element, slice + (i * m->rows + row) * element,
               element);
}

/* Two a byte, the earlier one in the low half. */
static void codes_take(const coterie_matrix_t *m, const unsigned char *slice,
                       uint32_t row, unsigned char *to)
{
    const unsigned char *from = slice + (size_t)row * (m->in / 2);

    for (uint32_t i = 0; i < m->in; i += 2, from++) {
        to[i] = *from & 0xf;
        to[i + 1] = *from >> 4;
    }
}
