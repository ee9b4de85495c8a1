// The slow path of an import library that loads the real one at the first call. ENTRIES is a file of
// ENTRY(index, name, kind) lines, LIBRARY the real library's name; MISSING_LIBRARY and MISSING_FUNCTION are the status
// codes that calls give when it, or a function of it, is not there.
#include <dlfcn.h>
#include <stddef.h>

static int library_status(void) { return MISSING_LIBRARY; }
static int function_status(void) { return MISSING_FUNCTION; }
static const char *library_text(void) { return LIBRARY " can't be loaded"; }
static const char *function_text(void) { return LIBRARY " lacks this function"; }
static size_t library_size(void) { return 0; }
static size_t function_size(void) { return 0; }

typedef void (*function)(void);

static const struct {
    const char *name;
    function no_library, no_function;
} entries[] = {
#define ENTRY(index, name, kind) {#name, (function)library_##kind, (function)function_##kind},
#include ENTRIES
};

__attribute__((visibility("hidden"))) function PREFIX(slots)[sizeof entries / sizeof entries[0]];

__attribute__((visibility("hidden"))) function PREFIX(lookup)(unsigned index) {
    // Threads that race here load it twice and get the same handle.
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    function found = library ? (function)dlsym(library, entries[index].name) : NULL;
    if (!found) found = library ? entries[index].no_function : entries[index].no_library;
    __atomic_store_n(&PREFIX(slots)[index], found, __ATOMIC_RELEASE);
    return found;
}
