coterieinclude_HEADERS += include/coterie/model.h
libcoterie_la_SOURCES += experts/band.c experts/band.h \
	experts/configkeys.c experts/configkeys.h experts/convert.c \
	experts/convert.h experts/datafile.c experts/datafile.h \
	experts/directory.c experts/model.c \
	experts/model.h experts/names.c experts/names.h experts/pack.c \
	experts/matrix.c experts/matrix.h experts/record.c experts/record.h \
	experts/rope.c experts/rope.h experts/safetensors.c \
	experts/safetensors.h experts/shape.c experts/shape.h \
	experts/source.c experts/source.h experts/store.c experts/store.h \
	experts/stripes.c experts/stripes.h \
	experts/tensor.c experts/tensor.h
