/* A stream of frames, and the fields of each payload, as both ends of the pipe read them. */

#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0;

    for (;;) {
        enum frame_type type;
        uint32_t len;
        const char *text, *value;
        uint64_t n;
        int r = frame_peek(data + at, size - at, &type, &len);

        if (r == 0 || r == -EPROTO)
            return 0;
        if (r != 1 || len > FRAME_MAX || len > size - at - FRAME_HEAD)
            abort();
        text = (const char *)data + at + FRAME_HEAD;
        r = frame_field(text, len, "key", &value);
        if (r >= 0 && (value < text || value + r > text + len || memchr(value, '\n', (size_t)r)))
            abort();
        frame_field_u64(text, len, "n", &n);
        at += FRAME_HEAD + len;
    }
}
