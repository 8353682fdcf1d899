#include "config.h"

#include "runtime/fabric.h"

const char *coterie_fabric_name(const coterie_fabric_t *fabric)
{
    return fabric->ops->name;
}

void coterie_fabric_close(coterie_fabric_t *fabric)
{
    if (fabric != NULL)
        fabric->ops->close(fabric);
}
