#ifndef MILONGA_CLIENT_H
#define MILONGA_CLIENT_H

/* The `milonga` command: one function a subcommand. Each returns the exit status: 0, 1 when it
 * failed, 2 when it was called wrongly. */

#include "base/config.h"

int client_image(const struct config *cfg, int argc, char **argv);

#endif
