/* The Range header: what it says lies within the bytes that there are. */

#include "services/api/range.c"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t from, len, total;

    if (size < sizeof(total))
        return 0;
    memcpy(&total, data, sizeof(total));
    data += sizeof(total);
    size -= sizeof(total);
    if (range_parse((const char *)data, size, total, &from, &len) == 1 &&
        (len == 0 || from >= total || len > total - from))
        abort();
    return 0;
}
