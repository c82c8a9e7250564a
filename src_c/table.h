/* table.h - reading a t5b_table: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_TABLE_H
#define T5BUCKET_TABLE_H

#include "t5bucket.h"

static inline const unsigned char *get_items(const t5b_table *table, size_t head)
{
    return (const unsigned char *)table->items + head * table->num_ranges * table->itemsize;
}

/* The first relative position of a range; range 0 has none. */
static inline int64_t get_start(const t5b_table *table, size_t range)
{
    return table->starts ? table->starts[range - 1] : table->origin + (int64_t)range;
}

#endif
