bin_PROGRAMS = coterie
coterie_SOURCES = tools/main.c tools/command.c tools/command.h \
	tools/report.c tools/report.h tools/modes.c tools/modes.h \
	tools/pack.c tools/trace.c tools/place.c tools/sim.c tools/info.c \
	tools/convert.c \
	tools/weights.c tools/weights.h tools/rope.c tools/rope.h
coterie_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
coterie_LDADD = libcoterie.la $(JANSSON_LIBS)
if HAVE_GLPK
coterie_LDADD += libcoterie-place.la
endif
if HAVE_MPI
coterie_LDADD += libcoterie-mpi.la
endif
