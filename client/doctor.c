#include "client/doctor.h"

#include "base/mem.h"
#include "client/show.h"

#include <stdarg.h>
#include <stdio.h>

static void say(struct doctor *d, const char *check, const char *level, const char *remedy,
                const char *fmt, va_list ap) __attribute__((format(printf, 5, 0)));

static void say(struct doctor *d, const char *check, const char *level, const char *remedy,
                const char *fmt, va_list ap)
{
    char what[700];

    vsnprintf(what, sizeof(what), fmt, ap);
    json_array_append_new(d->findings, json_pack("{s:s, s:s, s:s, s:s?}", "check", check, "level",
                                                 level, "what", what, "remedy", remedy));
    if (d->client->json)
        return;
    show_line(level, "%-18s %s", check, what);
    if (remedy != NULL)
        show_line("", "%-18s -> %s", "", remedy);
}

void doctor_ok(struct doctor *d, const char *check, const char *fmt, ...)
{
    va_list ap;

    d->passed++;
    va_start(ap, fmt);
    say(d, check, "ok", NULL, fmt, ap);
    va_end(ap);
}

void doctor_warning(struct doctor *d, const char *check, const char *remedy, const char *fmt, ...)
{
    va_list ap;

    d->warnings++;
    va_start(ap, fmt);
    say(d, check, "warning", remedy, fmt, ap);
    va_end(ap);
}

void doctor_fault(struct doctor *d, const char *check, const char *remedy, const char *fmt, ...)
{
    va_list ap;

    d->faults++;
    va_start(ap, fmt);
    say(d, check, "FAULT", remedy, fmt, ap);
    va_end(ap);
}

int cmd_doctor(struct client *c, int argc, char **argv)
{
    struct error err = ERROR_INIT;
    struct doctor d = {.client = c, .findings = json_array()};

    if (args_take(argc, argv, NULL, 0) != 0)
        return EXIT_USE;
    d.cfg = client_config(c, &err);
    if (d.cfg == NULL) {
        doctor_fault(&d, "config.file",
                     "mend that line; milonga-api --check-config lists all at once", "%s", err.msg);
    } else {
        doctor_config(&d);
        doctor_disk(&d);
        doctor_redis(&d);
        doctor_driver(&d);
    }
    doctor_api(&d);
    if (c->json) {
        json_t *all = json_pack("{s:i, s:i, s:i, s:o}", "faults", d.faults, "warnings", d.warnings,
                                "passed", d.passed, "findings", d.findings);

        show_json(all);
        json_decref(all);
    } else {
        printf("\n%u fault%s, %u warning%s, %u check%s passed\n", d.faults, show_s(d.faults),
               d.warnings, show_s(d.warnings), d.passed, show_s(d.passed));
        json_decref(d.findings);
    }
    return d.faults > 0;
}
