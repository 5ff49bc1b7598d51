/* The first half of the input says what to read, the second is read: no order of reads may leave
 * the bytes, and all of them end. */

#include "wire/mp.h"

#include <stdlib.h>
#include <string.h>

static volatile size_t sink; /* keeps the reads from being optimised away */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t half = size / 2, len, sum = 0;
    /* a copy of its own size, so that a sanitizer sees a read beyond */
    uint8_t *bytes = malloc(size - half + 1);
    const char *s;
    struct mp m;

    if (!bytes)
        return 0;
    if (size > half)
        memcpy(bytes + 1, data + half, size - half);
    mp_init(&m, bytes + 1, size - half);
    for (size_t i = 0; i < half; i++) {
        switch (data[i] % 8) {
        case 0:
            sum += mp_uint(&m);
            break;
        case 1:
            sum += (size_t)mp_int(&m);
            break;
        case 2:
            sum += mp_bool(&m);
            break;
        case 3:
            s = mp_str(&m, &len);
            for (size_t k = 0; k < len; k++)
                sum += (unsigned char)s[k];
            break;
        case 4:
            if (mp_array(&m) > size)
                abort();
            break;
        case 5:
            if (mp_map(&m) > size)
                abort();
            break;
        case 6:
            mp_skip(&m);
            break;
        default:
            mp_peek(&m);
        }
        if (m.at > m.end)
            abort();
    }
    mp_end(&m);
    free(bytes);
    sink = sum;
    return 0;
}
