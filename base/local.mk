coterieinclude_HEADERS += include/coterie/api.h include/coterie/coterie.h \
	include/coterie/status.h
libcoterie_la_SOURCES += base/container.c base/container.h base/dtype.c \
	base/dtype.h \
	base/element.h base/error.c base/error.h base/file.c base/file.h \
	base/npy.c base/npy.h base/npz.c base/npz.h base/options.c \
	base/options.h base/route.c base/route.h base/version.c base/wire.h
