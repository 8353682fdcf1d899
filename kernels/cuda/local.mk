# Devices. Without CUDA the library says that it has none; what a GPU runs is
# distributed all the same, and tested on the processor (tests/emulated).
coterieinclude_HEADERS += include/coterie/device.h
coterie_cuda_headers = kernels/cuda/activation.cuh kernels/cuda/dispatch.cuh \
	kernels/cuda/dispatch.h kernels/cuda/ffn.cuh kernels/cuda/ffn_formats.h \
	kernels/cuda/formats.cuh kernels/cuda/kernels.h \
	kernels/cuda/launch.cuh kernels/cuda/numbers.cuh \
	kernels/cuda/product.cuh kernels/cuda/ptx.cuh \
	kernels/cuda/ptx_hopper.cuh kernels/cuda/route.cuh \
	kernels/cuda/warp.cuh kernels/cuda/wide.cuh
coterie_cuda_sources = kernels/cuda/combine.cu \
	kernels/cuda/dispatch_arrive.cu \
	kernels/cuda/dispatch_forward.cu kernels/cuda/dispatch_send.cu \
	kernels/cuda/ffn.cu \
	kernels/cuda/ffn_bytes.cu kernels/cuda/ffn_halves.cu \
	kernels/cuda/ffn_wide.cu kernels/cuda/grouped.cu \
	kernels/cuda/router.cu kernels/cuda/sort.cu
libcoterie_la_SOURCES += kernels/cublas.c kernels/cublas.h \
	kernels/device.c kernels/device.h \
	kernels/device_host.c kernels/device_host.h \
	kernels/device_host_dispatch.c kernels/device_host_forward.c \
	kernels/device_host_graph.c kernels/device_host_grouped.c \
	kernels/device_host_messages.c kernels/device_host_messages.h \
	kernels/grouped.c kernels/grouped.h \
	$(coterie_cuda_headers)
libcoterie_la_CFLAGS += $(CUDA_CFLAGS)
libcoterie_la_LIBADD += $(CUDA_LIBS)
if HAVE_CUDA
libcoterie_la_SOURCES += kernels/cublas_find.c kernels/device_cuda.c \
	$(coterie_cuda_sources)
else
libcoterie_la_SOURCES += kernels/device_none.c
endif
EXTRA_DIST += $(coterie_cuda_sources) kernels/cublas_find.c \
	kernels/device_cuda.c kernels/device_none.c

# What takes NCCL's headers.
if HAVE_NCCL
libcoterie_la_SOURCES += kernels/cuda/reach.cu
endif
EXTRA_DIST += kernels/cuda/reach.cu kernels/cuda/reach.h
kernels/cuda/reach.lo: kernels/cuda/reach.h
kernels/cuda/reach.lo: NVCCFLAGS += $(NCCL_CFLAGS)

# libtool hands its flags to nvcc, which hands on those it does not know.
SUFFIXES = .cu
AM_NVCCFLAGS = -std=c++17 -O3 -lineinfo $(NVCC_ARCH) \
	--forward-unknown-to-host-compiler --Werror=all-warnings \
	-fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	-Wall -Wextra
AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =
.cu.lo:
	$(AM_V_at)$(MKDIR_P) $(@D)
	$(AM_V_NVCC)$(LIBTOOL) $(AM_V_lt) --tag=CC $(LIBTOOLFLAGS) \
	  --mode=compile $(NVCC) -prefer-pic $(AM_NVCCFLAGS) $(NVCCFLAGS) -I. \
	  $(AM_CPPFLAGS) -c -o $@ $<
# No compiler tells make their headers.
$(coterie_cuda_sources:.cu=.lo): $(coterie_cuda_headers)
