#ifndef COTERIE_EXPERTS_RECORD_H
#define COTERIE_EXPERTS_RECORD_H
/* One expert's record: three matrices in panels (coterie/ffn.h), then their
 * scales, then their biases. Filled and read band by band, so that no whole
 * matrix needs to exist in any other form. */
#include <coterie/model.h>

#include "experts/band.h"

enum { COTERIE_EXPERT_PARTS = 3 }; /* gate, up, down */

/* Part 0, 1 or 2 of a record: its shape and where it is. */
typedef struct coterie_record_part {
    uint32_t out, in;
    uint64_t weights, scales, bias; /* offsets; of the last two, 0 = none */
} coterie_record_part_t;

/* The format of such experts.
 * @return ERR_UNSUPPORTED if the dtype cannot hold them; `what` names them */
coterie_status_t coterie_expert_format_init(
    const coterie_model_config_t *config, uint32_t dtype, const char *what,
    coterie_expert_format_t *format);

coterie_record_part_t coterie_record_part(const coterie_expert_format_t *format,
                                   uint32_t part);

/* Copies a band between its place and a record's. `first` is its first row, a
 * multiple of COTERIE_BAND_ROWS; band->rows says how many. Before anything is
 * put, the record is zeros. */
void coterie_record_put(const coterie_expert_format_t *format, uint32_t part,
                        uint32_t first, const coterie_band_t *band,
                        void *record);
void coterie_record_get(const coterie_expert_format_t *format, uint32_t part,
                        uint32_t first, const void *record,
                        const coterie_band_t *band);

/* What recasting lost, over everything so far. */
typedef struct coterie_loss {
    double difference, whole; /* sums of squares */
} coterie_loss_t;

/* Makes the record `to` of one in another dtype, and adds to loss.
 * @return ERR_UNSUPPORTED if a value is not finite or too large; `what` names
 *         the expert */
coterie_status_t coterie_record_recast(const coterie_expert_format_t *from,
                                       const void *record,
                                       const coterie_expert_format_t *to,
                                       const char *what, void *recast,
                                       coterie_loss_t *loss);

#endif
