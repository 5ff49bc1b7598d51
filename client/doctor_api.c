/* What doctor finds when it asks the api as a frontend would. */

#include "client/doctor.h"

#include "client/show.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void doctor_api(struct doctor *d)
{
    struct error err = ERROR_INIT;
    struct rest *r = client_rest(d->client, &err);
    json_t *service = NULL;
    FILE *none;

    if (r == NULL)
        return; /* the configuration is bad, and that was said */
    if (rest_json(r, "GET", "/v1", NULL, &service, NULL, &err) < 0) {
        if (err.code == EACCES)
            doctor_fault(d, "api.key",
                         "give milonga the same configuration as the api, or set MILONGA_KEY", "%s",
                         err.msg);
        else
            doctor_fault(d, "api.reachable", "start milonga-api, or look into its log", "%s",
                         err.msg);
        return;
    }
    doctor_ok(d, "api.reachable", "%s, tenant %s, scope %s", rest_url(r),
              show_text(service, "tenant"), show_text(service, "scope"));
    if (strcmp(show_text(service, "version"), MILONGA_VERSION) != 0)
        doctor_warning(d, "api.version", "finish the upgrade", "the api is %s, this program is %s",
                       show_text(service, "version"), MILONGA_VERSION);
    json_decref(service);
    none = fopen("/dev/null", "we");
    if (none == NULL)
        return;
    if (rest_bytes(r, "/readyz", NULL, none, &err) < 0)
        doctor_fault(d, "api.ready", "look at the faults above",
                     "the api wants no requests now: %s", err.msg);
    else
        doctor_ok(d, "api.ready", "yes");
    fclose(none);
}
