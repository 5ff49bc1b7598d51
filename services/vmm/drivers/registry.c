#include "../machine.h"

#include "base/mem.h"

#include <string.h>

/* Every backend, a line each. */
static const struct driver *const drivers[] = {
    &driver_null, &driver_docker, &driver_docker_hosts, &driver_oci, &driver_ssh, &driver_ec2,
};

const struct driver *driver_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    return NULL;
}
