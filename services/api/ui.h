#ifndef MILONGA_API_UI_H
#define MILONGA_API_UI_H

/* The dashboard (ui/): three files in the program, which ask /v1 with the key that the person
 * gives. */

#include "services/api/route.h"

extern const struct route ui_routes[];
extern const size_t ui_route_ct;

#endif
