coterieinclude_HEADERS += include/coterie/offload.h
libcoterie_la_SOURCES += offload/policy.c offload/policy.h \
	offload/policy_cost.c offload/policy_lists.c
