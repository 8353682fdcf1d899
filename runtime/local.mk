coterieinclude_HEADERS += include/coterie/session.h include/coterie/transport.h \
	include/coterie/dispatch.h
libcoterie_la_SOURCES += runtime/auto.c runtime/bank.c runtime/bank.h \
	runtime/bank_ahead.c runtime/bank_cache.c runtime/bank_cache.h \
	runtime/bank_device.c \
	runtime/bank_speeds.c runtime/bank_tiers.c \
	runtime/boxes.c runtime/boxes.h runtime/device_call.c \
	runtime/device_call.h runtime/dispatch_device.c \
	runtime/dispatch_forward.c \
	runtime/dispatch_nodes.c runtime/dispatch_owner.c \
	runtime/dispatcher.c runtime/dispatcher.h runtime/dispatcher_memory.c \
	runtime/dispatcher_step.c \
	runtime/exchange.c runtime/fabric.c runtime/fabric.h \
	runtime/fabric_local.c runtime/gather.c \
	runtime/rendezvous.c runtime/rendezvous.h \
	runtime/rows.c runtime/session.c runtime/session.h runtime/threads.c \
	runtime/tiers_together.c \
	runtime/transport.c runtime/transport.h runtime/work.c

# GPUs that NCCL connects: its library is looked up at run time.
coterieinclude_HEADERS += include/coterie/nccl.h
if HAVE_NCCL
libcoterie_la_SOURCES += runtime/nccl.c runtime/nccl.h runtime/nccl_calls.c \
	runtime/nccl_calls.h runtime/nccl_open.c
else
libcoterie_la_SOURCES += runtime/nccl_none.c
endif
EXTRA_DIST += runtime/nccl.c runtime/nccl.h runtime/nccl_calls.c \
	runtime/nccl_calls.h runtime/nccl_none.c runtime/nccl_open.c
libcoterie_la_CFLAGS += $(NCCL_CFLAGS)

# A library of its own, so that engines without MPI do not load it.
if HAVE_MPI
lib_LTLIBRARIES += libcoterie-mpi.la
pkgconfig_DATA += coterie-mpi.pc
endif
libcoterie_mpi_la_SOURCES = runtime/mpi.c
libcoterie_mpi_la_CFLAGS = $(AM_CFLAGS) $(MPI_CFLAGS)
libcoterie_mpi_la_LIBADD = libcoterie.la $(MPI_LIBS)
libcoterie_mpi_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0
