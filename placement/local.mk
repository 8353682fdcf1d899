coterieinclude_HEADERS += include/coterie/cost.h include/coterie/loads.h \
	include/coterie/placement.h include/coterie/simulate.h \
	include/coterie/tiering.h include/coterie/topology.h \
	include/coterie/trace.h
libcoterie_la_SOURCES += placement/formats.c placement/formats.h \
	placement/formats_csv.c placement/formats_eplb.c \
	placement/formats_json.c \
	placement/formats_yaml.c placement/loads.c placement/loads_read.c \
	placement/loads_read.h placement/loads_tensors.c placement/measure.c \
	placement/measure.h placement/meter.c placement/meter.h \
	placement/tiering.c placement/tiering.h placement/tiering_file.c \
	placement/placement.c placement/placement.h \
	placement/route.c placement/simulate.c placement/simulate.h \
	placement/simulate_forward.c placement/simulate_modes.c \
	placement/without.c placement/wire.h
libcoterie_la_SOURCES += placement/recorder.c placement/summary.c \
	placement/trace.c placement/trace_csv.c placement/trace_csv.h \
	placement/trace_object.h placement/trace_read.c placement/trace_write.c
libcoterie_la_SOURCES += placement/topology.c placement/topology.h \
	placement/topology_hwloc.c placement/topology_json.c

if HAVE_GLPK
coterieinclude_HEADERS += include/coterie/place.h include/coterie/replace.h
pkgconfig_DATA += coterie-place.pc
lib_LTLIBRARIES += libcoterie-place.la
coterie_place_library = libcoterie-place.la
endif
libcoterie_place_la_SOURCES = placement/affinity.c placement/affinity.h \
	placement/capacity.c placement/capacity.h placement/control.c \
	placement/copies.c placement/cure.c placement/cure.h \
	placement/place_loads.c placement/place_options.c \
	placement/spread.c placement/spread.h \
	placement/copies.h placement/cover.c placement/cover.h \
	placement/sample.c placement/sample.h \
	placement/scores.c placement/scores.h placement/slots.c placement/slots.h \
	placement/place.c placement/placing.c placement/placing.h \
	placement/refine.c placement/refine.h placement/replicas.c \
	placement/replicas.h placement/report.c placement/solve/anneal.c \
	placement/solve/assignment.c placement/solve/balance.c \
	placement/solve/branch.c placement/solve/chain.c placement/solve/chain.h \
	placement/solve/chain_relax.c \
	placement/solve/columns.c placement/solve/columns.h \
	placement/solve/eigen.c placement/solve/eigen.h \
	placement/solve/gram.c placement/solve/gram.h \
	placement/solve/layer.c placement/solve/layer.h \
	placement/solve/machine.h placement/solve/master.c placement/solve/master.h \
	placement/solve/matching.c placement/solve/matching.h \
	placement/solve/nodes.c \
	placement/solve/parallel.c placement/solve/parallel.h \
	placement/solve/pricing.c placement/solve/problem.c \
	placement/solve/problem.h placement/solve/relabel.c \
	placement/solve/relabel.h placement/solve/rotation.c \
	placement/solve/rotation.h placement/solve/search.c \
	placement/solve/search.h placement/solve/semidefinite.c \
	placement/solve/solve.c placement/solve/solver.h placement/solve/subsets.c
libcoterie_place_la_SOURCES += placement/moves.c placement/replace.c \
	placement/replacing.c placement/replacing.h placement/trail.c \
	placement/trail.h
libcoterie_place_la_LIBADD = libcoterie.la $(GLPK_LIBS)
libcoterie_place_la_LDFLAGS = $(AM_LDFLAGS) -version-info 0:0:0 -no-undefined
