#ifndef COTERIE_EXPERTS_BAND_H
#define COTERIE_EXPERTS_BAND_H
/* Some rows of a matrix in a weight format, element by element: what lies
 * between a checkpoint's tensors, f32 and panels. Formats, in the order of
 * coterie_dtype_t, as published:
 *
 * INT8        q = x / scale, scale = largest / 127, of a row
 * INT8_GROUP  gguf q8_0: the same of 32 elements; scale f16
 * INT4        gguf q4_0: w = (q - 8) scale
 * INT4_ZERO   gguf q4_1: w = q scale + minimum
 * FP8         DeepSeek-V3: e4m3fn, w = q scale, scale of 128 x 128 elements
 * MXFP4       OCP microscaling 1.0: e2m1 times a power of two (e8m0) */
#include <coterie/ffn.h>

/* Rows of a band, at most: an FP8 block's share a scale. */
enum { COTERIE_BAND_ROWS = COTERIE_FP8_BLOCK };

/* Scales by dtype: INT8 float [rows]; INT8_GROUP, INT4 f16 [rows, groups];
 * INT4_ZERO f16 [rows, groups, 2], the scale and the minimum; MXFP4 e8m0
 * [rows, groups]; FP8 float [blocks of in]. */
typedef struct coterie_band {
    uint32_t dtype; /* coterie_dtype_t */
    uint32_t rows, in;
    void *elements; /* [rows, in]; 4-bit ones have a byte each */
    void *scales;
} coterie_band_t;

/* Bytes of one element in a band. */
uint32_t coterie_band_element(uint32_t dtype);

/* Bytes of a band's scales; 0 if the format has none. */
uint64_t coterie_band_scales(uint32_t dtype, uint32_t rows, uint32_t in);

/* Room for bands of so many columns; coterie_band_clear frees it. */
coterie_status_t coterie_band_create(uint32_t dtype, uint32_t in,
                                     coterie_band_t *band_p);

void coterie_band_clear(coterie_band_t *band);

/* Sets elements and scales from values [rows, in].
 * @return ERR_UNSUPPORTED if a value is not finite, or a scale not in f16;
 *         says which, in a form to be put behind the matrix's name */
coterie_status_t coterie_band_encode(coterie_band_t *band,
                                     const float *values);

/* The other way. */
void coterie_band_decode(const coterie_band_t *band, float *values);

#endif
