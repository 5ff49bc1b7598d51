#ifndef MILONGA_SCRIPT_H
#define MILONGA_SCRIPT_H

/* Lua scripts: each is a file of its own, one transition a file, in the lua/ directory beside the
 * code that calls it; the Makefile puts libshared/lua/prelude.lua before it and makes a C string of
 * the two (gen/<service>/lua/<name>.inc in the build directory). Defined once per script:
 *
 *   const struct script script_accept = {
 *       "accept",
 *   #include "api/lua/accept.inc"
 *   };
 *
 * Sent as EVALSHA; a NOSCRIPT answer falls back to EVAL, so services of different versions can live
 * on one Redis. KEYS[1] is the key prefix, always; ARGV is the script's own. */

struct script {
    const char *name;
    const char *text;
};

/* For a text that is written in place. */
#define SCRIPT_DEFINE(sym, script_name, script_text)                                               \
    static const struct script sym = {script_name, script_text}

#endif
