bin_PROGRAMS = coterie
coterie_SOURCES = tools/main.c tools/command.c tools/command.h \
	tools/report.c tools/report.h tools/modes.c tools/modes.h \
	tools/budget.c tools/budget.h tools/budget_layers.c tools/cluster.c \
	tools/cluster.h tools/doctor.c tools/doctor.h \
	tools/doctor_measure.c tools/pack.c tools/trace.c \
	tools/place.c tools/place.h tools/place_report.c tools/replace.c \
	tools/sim.c tools/info.c tools/convert.c \
	tools/cache_command.c tools/predict.c tools/playing.c tools/playing.h \
	tools/run.c tools/job.c tools/job.h tools/lift.c tools/lift.h \
	tools/prompts.c tools/prompts.h \
	tools/ranks.c tools/rank.c tools/rank.h tools/collect.c \
	tools/npy.c tools/npy.h \
	tools/decoder.c tools/decoder.h tools/weights.c tools/weights.h \
	tools/attention.c tools/attention.h tools/latent.c tools/carve.h \
	tools/cache.c tools/cache.h tools/rope.c tools/rope.h \
	tools/ffn.c tools/ffn.h tools/vector.c tools/vector.h \
	tools/sampler.c tools/sampler.h
coterie_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
coterie_LDADD = libcoterie.la $(JANSSON_LIBS)
if HAVE_GLPK
coterie_LDADD += libcoterie-place.la
endif
if HAVE_MPI
coterie_LDADD += libcoterie-mpi.la
endif
