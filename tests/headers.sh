#!/bin/sh
# Every installed header compiles alone, in C and in C++, and a small client
# builds and runs against the installed library with pkg-config only.
# usage: headers.sh INSTALLED-INCLUDE-DIR PKGCONFIG-DIR (see installcheck-local)
set -eu
headers=$1
export PKG_CONFIG_PATH="$2:${PKG_CONFIG_PATH:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for header in "$headers"/coterie/*.h; do
    name=coterie/$(basename "$header")
    echo "#include <$name>" >"$work/alone.c"
    cp "$work/alone.c" "$work/alone.cc"
    ${CC:-cc} -std=c11 -Wall -Wextra -pedantic -Werror -I"$headers" \
        -fsyntax-only "$work/alone.c"
    ${CXX:-c++} -Wall -Wextra -Werror -I"$headers" -fsyntax-only \
        "$work/alone.cc"
done

cat >"$work/client.c" <<'C'
#include <coterie/coterie.h>
#include <stdio.h>

int main(void)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = 2;
    options.expert_count = 8;
    options.rank_count = 4;
    if (coterie_placement_create(&options, &placement) != COTERIE_OK) {
        puts(coterie_last_error());
        return 1;
    }
    coterie_placement_destroy(placement);
    return puts(coterie_version()) < 0;
}
C
library=$(pkg-config --variable=libdir coterie)
${CC:-cc} "$work/client.c" -o "$work/client" \
    $(pkg-config --cflags --libs coterie)
LD_LIBRARY_PATH=$library "$work/client"

# All of the archive, so that nothing it needs may be left out of coterie.pc.
if [ -f "$library/libcoterie.a" ]; then
    ${CC:-cc} $(pkg-config --cflags coterie) "$work/client.c" \
        -o "$work/client" -Wl,--whole-archive "$library/libcoterie.a" \
        -Wl,--no-whole-archive \
        $(pkg-config --static --libs coterie | sed 's/-lcoterie//')
    "$work/client"
fi

# Engines must not be drawn into GLPK's licence, or into MPI.
if ldd "$library/libcoterie.so" | grep -E 'libglpk|libmpi'; then
    echo "libcoterie links what only its sister libraries may" >&2
    exit 1
fi
