#include "wire/frame.h"

#include <errno.h>
#include <string.h>

void frame_head(uint8_t *out, enum frame_type type, uint32_t payload_len)
{
    out[0] = (uint8_t)(payload_len >> 24);
    out[1] = (uint8_t)(payload_len >> 16);
    out[2] = (uint8_t)(payload_len >> 8);
    out[3] = (uint8_t)payload_len;
    out[4] = (uint8_t)type;
}

static int type_known(uint8_t type)
{
    switch (type) {
    case FRAME_HEADER:
    case FRAME_TAR:
    case FRAME_TAR_END:
    case FRAME_GO:
    case FRAME_HEARTBEAT:
    case FRAME_CANCEL:
    case FRAME_READY:
    case FRAME_LOADED:
    case FRAME_STARTED:
    case FRAME_OUTPUT:
    case FRAME_FINAL:
    case FRAME_ERROR:
        return 1;
    default:
        return 0;
    }
}

int frame_peek(const uint8_t *data, size_t len, enum frame_type *ret_type,
               uint32_t *ret_payload_len)
{
    uint32_t payload_len;

    if (len < FRAME_HEAD)
        return 0;
    payload_len = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 |
                  (uint32_t)data[3];
    /* Before waiting for the payload: a peer that lies about it must not make us wait for ever. */
    if (payload_len > FRAME_MAX || !type_known(data[4]))
        return -EPROTO;
    if (len - FRAME_HEAD < payload_len)
        return 0;
    *ret_type = (enum frame_type)data[4];
    *ret_payload_len = payload_len;
    return 1;
}

int frame_field(const char *text, size_t len, const char *key, const char **ret_value)
{
    size_t key_len = strlen(key);
    const char *end;

    if (len == 0) /* text may be NULL then, as the data of an empty buffer is */
        return -ENOENT;
    end = text + len;

    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline ? newline : end;
        size_t line_len = (size_t)(line_end - text);

        if (line_len > key_len && text[key_len] == '=' && memcmp(text, key, key_len) == 0) {
            *ret_value = text + key_len + 1;
            return (int)(line_len - key_len - 1);
        }
        text = newline ? newline + 1 : end;
    }
    return -ENOENT;
}

int frame_field_u64(const char *text, size_t len, const char *key, uint64_t *ret)
{
    const char *value;
    uint64_t n = 0;
    int value_len = frame_field(text, len, key, &value);

    if (value_len < 0)
        return value_len;
    if (value_len == 0)
        return -EINVAL;
    for (int i = 0; i < value_len; i++) {
        unsigned digit = (unsigned)(unsigned char)value[i] - '0';

        if (digit > 9 || n > (UINT64_MAX - digit) / 10)
            return -EINVAL;
        n = n * 10 + digit;
    }
    *ret = n;
    return 0;
}
