#include "config.h"

#include <coterie/coterie.h>

const char *coterie_version(void)
{
    return PACKAGE_VERSION;
}
