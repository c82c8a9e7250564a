/* replay.c - a driver that replaces libFuzzer: runs a target on each file in its arguments.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NBYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        static uint8_t buffer[MAX_NBYTES];
        FILE *file = fopen(argv[i], "rb");
        const size_t nbytes = file ? fread(buffer, 1, MAX_NBYTES, file) : 0;
        uint8_t *data = malloc(nbytes); /* exactly, for the address sanitizer */

        assert(file && data);
        fclose(file);
        memcpy(data, buffer, nbytes);
        fprintf(stderr, "%s\n", argv[i]); /* the last one is the one that failed */
        LLVMFuzzerTestOneInput(data, nbytes);
        free(data);
    }
    return 0;
}
