#ifndef COTERIE_H
#define COTERIE_H
/** @file
 * All of libcoterie. libcoterie-place adds coterie/place.h. */
#include <coterie/api.h>
#include <coterie/cost.h>
#include <coterie/device.h>
#include <coterie/dispatch.h>
#include <coterie/early.h>
#include <coterie/ffn.h>
#include <coterie/host.h>
#include <coterie/kernels.h>
#include <coterie/loads.h>
#include <coterie/model.h>
#include <coterie/nccl.h>
#include <coterie/offload.h>
#include <coterie/placement.h>
#include <coterie/pool.h>
#include <coterie/session.h>
#include <coterie/simulate.h>
#include <coterie/status.h>
#include <coterie/tiering.h>
#include <coterie/tiers.h>
#include <coterie/topology.h>
#include <coterie/trace.h>
#include <coterie/transport.h>
#include <coterie/wire.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Version of the library in use, such as "0.1.0". */
COTERIE_API const char *coterie_version(void);

#ifdef __cplusplus
}
#endif
#endif
