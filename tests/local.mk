# One program, so that Criterion closes with one synthesis. It links the static
# library: a room's tests may reach inside their room.
# Criterion's runner cannot start under TSan: there, only the scripts run.
if RUN_CRITERION
check_PROGRAMS += tests/run
TESTS += tests/run
endif
tests_run_SOURCES = tests/test_base.c \
	tests/kernels_data.c tests/kernels_data.h \
	tests/test_expert_ffn.c \
	tests/test_kernels.c \
	tests/test_wire.c \
	tests/panel_data.c tests/panel_data.h \
	tests/test_panels.c \
	tests/test_pool.c \
	tests/test_activation.c \
	tests/test_router.c \
	tests/test_transport.c \
	tests/draw.h tests/test_placement.c \
	tests/models.c tests/models.h \
	tests/test_experts.c \
	tests/test_experts_shape.c \
	tests/test_store.c \
	tests/trace_files.c tests/trace_files.h \
	tests/test_npy.c \
	tests/test_recorder.c \
	tests/test_trace.c \
	tests/test_simulate.c \
	tests/test_formats.c \
	tests/simulations.c tests/simulations.h \
	tests/test_simulate_random.c \
	tests/session_model.c tests/session_model.h \
	tests/session_world.c tests/session_world.h \
	tests/test_session.c \
	tests/test_bank.c \
	tests/command.c tests/command.h \
	tests/test_command.c \
	tests/test_model_logits.c \
	tests/planted.c tests/planted.h \
	tests/test_predictor.c \
	tests/test_replay.c \
	tests/test_policy.c \
	tests/fault_io.c tests/fault_io.h \
	tests/test_reader.c \
	tests/test_budget.c \
	tests/test_early.c \
	tests/test_sharing.c \
	tests/test_tiers.c \
	tests/test_timeline.c \
	tests/test_container.c \
	tests/test_doctor.c \
	tests/test_foresight.c \
	tests/test_tier_memory.c \
	tests/test_stripes.c \
	tests/test_quantise.c \
	tests/test_record.c \
	tests/test_quantised_models.c \
	tests/test_dtypes.c \
	tests/test_topology.c \
	tests/test_cost.c \
	tests/test_loads.c \
	tests/test_rendezvous.c \
	tests/test_nccl.c \
	tests/test_bank_cache.c
tests_run_SOURCES += tests/test_amx.c tests/emulated/amx.c \
	tests/emulated/amx.h
tests_run_CPPFLAGS = $(AM_CPPFLAGS)
tests_run_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS) $(JANSSON_CFLAGS) \
	$(LIBZIP_CFLAGS)
tests_run_LDFLAGS = $(AM_LDFLAGS) -static
tests_run_LDADD = $(coterie_place_library) libcoterie.la $(CRITERION_LIBS) $(JANSSON_LIBS) \
	$(LIBZIP_LIBS)
if HAVE_GLPK
tests_run_SOURCES += tests/test_copies.c tests/test_place.c \
	tests/test_place_command.c \
	tests/test_place_limits.c \
	tests/test_replace.c \
	tests/test_solve.c \
	tests/test_sample.c
endif
# The GPU's kernels for the CPU, found before CUDA's own headers.
if RUN_CRITERION
check_LTLIBRARIES = tests/libemulated.la
endif
tests_libemulated_la_SOURCES = tests/emulated/combine.cc \
	tests/emulated/cuda_runtime.h tests/emulated/dispatch_arrive.cc \
	tests/emulated/dispatch_forward.cc \
	tests/emulated/dispatch_send.cc tests/emulated/emulator.cc \
	tests/emulated/ffn.cc tests/emulated/ffn_bytes.cc \
	tests/emulated/ffn_halves.cc tests/emulated/ffn_wide.cc \
	tests/emulated/grouped.cc \
	tests/emulated/kernels.h tests/emulated/ptx_emulated.cuh \
	tests/emulated/ptx_hopper_emulated.cuh tests/emulated/router.cc \
	tests/emulated/sort.cc
tests_libemulated_la_CPPFLAGS = -I$(srcdir)/tests/emulated $(AM_CPPFLAGS)
tests_libemulated_la_CXXFLAGS = -std=c++17 -Wall -Wextra \
	-Wno-unknown-pragmas $(SANITIZER_FLAGS)
tests_run_SOURCES += tests/gpu_checks.c tests/gpu_checks.h \
	tests/gpu_data.c tests/gpu_data.h \
	tests/gpu_dispatch.c tests/gpu_forward.c tests/gpu_grouped.c \
	tests/gpu_layers.c tests/gpu_layers.h \
	tests/gpu_ranks.c tests/gpu_ranks.h \
	tests/test_device.c tests/test_gpu.c tests/test_grouped.c
tests_run_LDADD += tests/libemulated.la -lstdc++

if HAVE_NCCL
tests_run_SOURCES += tests/fake_nccl.c tests/fake_nccl.h \
	tests/test_nccl_dispatch.c
tests_run_CFLAGS += $(NCCL_CFLAGS) $(CUDA_CFLAGS)
else
EXTRA_DIST += tests/fake_nccl.c tests/fake_nccl.h \
	tests/test_nccl_dispatch.c
endif

# On a machine with a GPU; elsewhere every check says that it was skipped.
EXTRA_PROGRAMS = tests/gpu
tests_gpu_SOURCES = tests/gpu.c tests/gpu_checks.c tests/gpu_checks.h \
	tests/gpu_data.c tests/gpu_data.h \
	tests/gpu_dispatch.c tests/gpu_forward.c tests/gpu_grouped.c \
	tests/gpu_layers.c tests/gpu_layers.h \
	tests/gpu_ranks.c tests/gpu_ranks.h
tests_gpu_LDFLAGS = $(AM_LDFLAGS) -static
tests_gpu_LDADD = libcoterie.la
check-gpu: tests/gpu$(EXEEXT)
	tests/gpu$(EXEEXT)
check-gpu-sanitizers: tests/gpu$(EXEEXT)
	for tool in memcheck racecheck synccheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 1 \
	    tests/gpu$(EXEEXT) || exit 1; \
	done
.PHONY: check-gpu check-gpu-sanitizers

AM_TESTS_ENVIRONMENT = COTERIE_TEST_DATA='$(abs_srcdir)/tests/data'; \
	COTERIE_EXAMPLES='$(abs_srcdir)/examples'; \
	COTERIE_COMMAND='$(abs_builddir)/coterie'; \
	COTERIE_SCHEMA='$(abs_srcdir)/doc/placement.schema.json'; \
	COTERIE_SANITIZERS='$(enable_sanitizers)'; \
	export COTERIE_TEST_DATA COTERIE_EXAMPLES COTERIE_COMMAND \
	COTERIE_SCHEMA \
	COTERIE_SANITIZERS;

EXTRA_DIST += tests/data
dist_check_SCRIPTS = tests/headers.sh tests/budgets.sh tests/ranks.sh tests/saving.sh tests/faults.sh \
	tests/schema.sh tests/limits.sh tests/valgrind.sh tests/gpu_peers.sh
TESTS += tests/budgets.sh tests/ranks.sh tests/saving.sh tests/faults.sh tests/schema.sh tests/limits.sh \
	tests/gpu_peers.sh
check-valgrind: all
	$(AM_TESTS_ENVIRONMENT) $(srcdir)/tests/valgrind.sh || [ $$? = 77 ]
.PHONY: check-valgrind
installcheck-local:
	CC='$(CC)' CXX='$(CXX)' $(srcdir)/tests/headers.sh \
	  '$(DESTDIR)$(includedir)' '$(DESTDIR)$(pkgconfigdir)'
