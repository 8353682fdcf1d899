coterieinclude_HEADERS += include/coterie/placement.h \
	include/coterie/simulate.h include/coterie/trace.h
libcoterie_la_SOURCES += placement/placement.c placement/placement.h \
	placement/route.c placement/wire.h

if HAVE_GLPK
coterieinclude_HEADERS += include/coterie/place.h
pkgconfig_DATA += coterie-place.pc
endif
