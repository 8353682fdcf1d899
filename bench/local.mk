# Benchmarks: built with everything else, run by hand; see bench/README.md.
noinst_PROGRAMS += bench/alltoall bench/costmodel bench/dispatch bench/kernels \
	bench/wire
bench_wire_SOURCES = bench/bench.h bench/wire.c
bench_wire_LDADD = libcoterie.la
bench_kernels_SOURCES = bench/bench.h bench/kernels.c \
	bench/kernels_layer.c bench/kernels_layer.h bench/limits.c \
	bench/limits.h bench/peer.h bench/peer_openblas.c
bench_kernels_LDADD = libcoterie.la
EXTRA_DIST += bench/kernels.sh bench/kernels_table.py
# Others to measure beside ours, each in a module of its own.
if HAVE_GGML
noinst_LTLIBRARIES += bench/peer-ggml.la
endif
if HAVE_IK
noinst_LTLIBRARIES += bench/peer-ik.la
endif
if HAVE_ONEDNN
noinst_LTLIBRARIES += bench/peer-onednn.la
endif
bench_peer_onednn_la_SOURCES = bench/peer.h bench/peer_onednn.c
bench_peer_onednn_la_CPPFLAGS = $(ONEDNN_CFLAGS)
bench_peer_onednn_la_LDFLAGS = $(bench_module_flags)
bench_peer_onednn_la_LIBADD = $(ONEDNN_LIBS)
bench_module_flags = -module -avoid-version -rpath /nowhere
bench_peer_ggml_la_SOURCES = bench/peer.h bench/peer_ggml.c
bench_peer_ggml_la_CPPFLAGS = $(GGML_CFLAGS)
bench_peer_ggml_la_LDFLAGS = $(bench_module_flags)
bench_peer_ggml_la_LIBADD = $(GGML_LIBS)
bench_peer_ik_la_SOURCES = $(bench_peer_ggml_la_SOURCES)
bench_peer_ik_la_CPPFLAGS = -DPEER_IK $(IK_CFLAGS)
bench_peer_ik_la_LDFLAGS = $(bench_module_flags)
bench_peer_ik_la_LIBADD = $(IK_LIBS)
bench_dispatch_SOURCES = bench/bench.h bench/dispatch.c \
	bench/dispatch_engine.c bench/dispatch_engine.h bench/dispatch_ranks.c
bench_dispatch_LDADD = libcoterie.la
bench_costmodel_SOURCES = bench/bench.h bench/costmodel.c \
	bench/dispatch_engine.c bench/dispatch_engine.h bench/dispatch_ranks.c
bench_costmodel_LDADD = libcoterie.la
# Static, since it measures what the library does not export.
bench_alltoall_SOURCES = bench/alltoall.c
bench_alltoall_CFLAGS = $(AM_CFLAGS) $(MPI_CFLAGS)
bench_alltoall_LDFLAGS = $(AM_LDFLAGS) -static
bench_alltoall_LDADD = libcoterie.la
if HAVE_MPI
bench_dispatch_LDADD += libcoterie-mpi.la
bench_costmodel_LDADD += libcoterie-mpi.la
bench_alltoall_LDADD += libcoterie-mpi.la $(MPI_LIBS)
endif
# Static for the same reason.
if HAVE_LIBURING
noinst_PROGRAMS += bench/storage bench/offload
endif
bench_storage_SOURCES = bench/bench.h bench/limits.c bench/limits.h \
	bench/storage.c bench/storage_raw.c bench/storage_raw.h
bench_storage_CFLAGS = $(AM_CFLAGS) $(LIBURING_CFLAGS)
bench_storage_LDFLAGS = $(AM_LDFLAGS) -static
bench_storage_LDADD = libcoterie.la $(LIBURING_LIBS)
bench_offload_SOURCES = bench/bench.h bench/offload.c bench/offload_engine.c \
	bench/offload_engine.h bench/offload_files.c bench/offload_files.h \
	bench/offload_store.c bench/offload_store.h \
	bench/storage_raw.c bench/storage_raw.h
bench_offload_CFLAGS = $(AM_CFLAGS) $(LIBURING_CFLAGS)
bench_offload_LDFLAGS = $(AM_LDFLAGS) -static
bench_offload_LDADD = libcoterie.la $(LIBURING_LIBS)
# Static likewise; on a machine without a GPU, with --device host.
noinst_PROGRAMS += bench/gpu_stream
bench_gpu_stream_SOURCES = bench/bench.h bench/gpu_stream.c \
	bench/offload_store.c bench/offload_store.h
bench_gpu_stream_LDFLAGS = $(AM_LDFLAGS) -static
bench_gpu_stream_LDADD = libcoterie.la
# Needs METIS and the command cbc to run all it can beside ours.
if HAVE_GLPK
noinst_PROGRAMS += bench/placement
endif
bench_placement_SOURCES = bench/bench.h bench/placement.c bench/placement.h \
	bench/placement_goals.c bench/placement_ilp.c bench/placement_peers.c bench/placement_planted.c
bench_placement_LDADD = libcoterie-place.la libcoterie.la $(GLPK_LIBS) \
	$(METIS_LIBS)
# Static: the driver, and cuBLAS if it is there, are found at run time.
noinst_PROGRAMS += bench/gpu
bench_gpu_SOURCES = bench/bench.h bench/gpu.c bench/gpu_cublas.c \
	bench/gpu_cublas.h bench/gpu_layer.c bench/gpu_layer.h tests/draw.h
bench_gpu_LDFLAGS = $(AM_LDFLAGS) -static
bench_gpu_LDADD = libcoterie.la
# The same of ranks on one GPU.
noinst_PROGRAMS += bench/gpu_dispatch
bench_gpu_dispatch_SOURCES = bench/bench.h bench/gpu_dispatch.c tests/draw.h
bench_gpu_dispatch_LDFLAGS = $(AM_LDFLAGS) -static
bench_gpu_dispatch_LDADD = libcoterie.la
# All of it, beside PyTorch.
EXTRA_DIST += bench/gpu.sh bench/gpu_peers.py
