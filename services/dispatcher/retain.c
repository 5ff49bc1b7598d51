#include "services/dispatcher/retain.h"

#include <stddef.h>

struct retain *retain_new(struct dispatcher *d)
{
    (void)d;
    return NULL;
}
void retain_start(struct retain *o)
{
    (void)o;
}
void retain_stop(struct retain *o)
{
    (void)o;
}
void retain_free(struct retain *o)
{
    (void)o;
}
void retain_look(struct retain *o)
{
    (void)o;
}
