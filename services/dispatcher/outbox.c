#include "services/dispatcher/outbox.h"

#include <stddef.h>

struct outbox *outbox_new(struct dispatcher *d)
{
    (void)d;
    return NULL;
}
void outbox_start(struct outbox *o)
{
    (void)o;
}
void outbox_stop(struct outbox *o)
{
    (void)o;
}
void outbox_free(struct outbox *o)
{
    (void)o;
}
void outbox_look(struct outbox *o)
{
    (void)o;
}
