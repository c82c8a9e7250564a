/* epilogue.h - write a block of items into a matrix, with an epilogue: shared, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_EPILOGUE_H
#define T5BUCKET_EPILOGUE_H

#include "t5bucket.h"

#include <string.h>

#include "masks.h"
#include "rows.h"
#include "stream.h"

/* Write a block of items to a head's row. */
static inline void write_block(const t5b_epilogue *epilogue, const row_block *block, size_t head,
                               const void *items, size_t itemsize, block_mask *mask,
                               int streaming, const t5b_matrix *matrix)
{
    const size_t first = block->first, end = first + block->count;
    unsigned char *row = get_row(matrix, block, head);
    /* A block begins up to a line before the end of the last one: skip keys that were written. */
    const size_t from = first ? floor_line(row, first + get_line_length(itemsize), itemsize) : 0;
    const size_t to = end < block->key_length ? floor_line(row, end, itemsize) : end;
    const size_t nbytes = (to - from) * itemsize, skipped = (from - first) * itemsize;
    const unsigned char *value = (const unsigned char *)items + skipped;
    unsigned char *target = row + from * itemsize;
    uint64_t scratch[BLOCK_LENGTH];

    if (has_mask(epilogue))
        join_masks(epilogue, block, head, itemsize, epilogue->masked_item, mask);
    if (epilogue && (epilogue->accumulate || epilogue->addend.data)) {
        const int is_in_place = !mask->is_filled && !streaming;
        unsigned char *sum = is_in_place ? target : (unsigned char *)scratch;
        const unsigned char *first_term = epilogue->accumulate ? target : value;
        if (sum != first_term)
            memcpy(sum, first_term, nbytes);
        if (epilogue->accumulate)
            epilogue->implementation->add_items(epilogue->type, sum, value, to - from);
        if (epilogue->addend.data)
            epilogue->implementation->add_items(
                epilogue->type, sum, get_row(&epilogue->addend, block, head) + from * itemsize,
                to - from);
        value = sum;
    }
    if (value != target) {
        const row_source written = mask_items(value, mask, skipped);
        write_row(target, &written, nbytes, streaming);
    }
}

#endif
