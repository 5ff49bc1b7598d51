#include "services/api/ui.h"

#include "base/mem.h"
#include "services/api/reply.h"

#include <string.h>

static const char page[] =
#include "api/ui/index.html.inc"
    ;
static const char style[] =
#include "api/ui/style.css.inc"
    ;
static const char script[] =
#include "api/ui/app.js.inc"
    ;

static void serve(struct call *c, const char *type, const char *text)
{
    /* Nothing but these files and this service: what a job's name or output might smuggle in has
     * nowhere to come from and nowhere to go. */
    call_add_header(c, "content-security-policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    call_add_header(c, "x-content-type-options", "nosniff");
    call_add_header(c, "referrer-policy", "no-referrer");
    call_add_header(c, "cache-control", "no-cache");
    reply_bytes(c, 200, type, NULL, text, strlen(text));
}

static void page_get(struct call *c)
{
    serve(c, "text/html; charset=utf-8", page);
}

static void style_get(struct call *c)
{
    serve(c, "text/css; charset=utf-8", style);
}

static void script_get(struct call *c)
{
    serve(c, "text/javascript; charset=utf-8", script);
}

#define GET (ROUTE_GET | ROUTE_HEAD)

const struct route ui_routes[] = {
    {"ui", GET, "/ui", ROUTE_BODY_SMALL, page_get, ROUTE_OPEN},
    {"ui.style", GET, "/ui/style.css", ROUTE_BODY_SMALL, style_get, ROUTE_OPEN},
    {"ui.script", GET, "/ui/app.js", ROUTE_BODY_SMALL, script_get, ROUTE_OPEN},
};
const size_t ui_route_ct = ARRAY_SIZE(ui_routes);
