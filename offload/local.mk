coterieinclude_HEADERS += include/coterie/early.h include/coterie/host.h \
	include/coterie/offload.h include/coterie/tiers.h
libcoterie_la_SOURCES += offload/policy.c offload/policy.h \
	offload/policy_cost.c offload/policy_lists.c
libcoterie_la_SOURCES += offload/chance.h offload/early.c offload/forecast.c \
	offload/forecast.h offload/foresight.c offload/foresight.h \
	offload/history.c offload/history.h offload/hot.c offload/player.c \
	offload/player.h offload/predictor.c offload/predictor.h \
	offload/predictor_counts.c offload/predictor_regression.c \
	offload/predictor_router.c offload/predictor_token.c offload/replay.c \
	offload/score.c
libcoterie_la_SOURCES += offload/arena.c offload/arena.h offload/budget.c \
	offload/budget.h offload/drive.c offload/host.c offload/memory.c \
	offload/memory.h offload/reader.c offload/reader.h offload/reader_io.h \
	offload/reader_open.c offload/reader_open.h offload/reader_pool.c \
	offload/share.c offload/share.h offload/share_guest.c \
	offload/share_keeper.c offload/tiers.c offload/tiers.h \
	offload/tiers_memory.c offload/tiers_open.c offload/tiers_plan.c \
	offload/tiers_state.c offload/tiers_state.h offload/tiers_watch.c \
	offload/timeline.c offload/timeline.h
if HAVE_LIBURING
libcoterie_la_SOURCES += offload/reader_uring.c
endif
