dnl COTERIE_WITH(name, pkg-config modules, what for)
dnl yes must succeed, auto may come up empty; sets with_NAME, HAVE_NAME.
AC_DEFUN([COTERIE_WITH], [
  AC_ARG_WITH([$1], [AS_HELP_STRING([--with-$1=yes|no|auto], [$3])],
              [], [with_$1=auto])
  AS_IF([test "x$with_$1" != xno],
    [PKG_CHECK_MODULES(m4_toupper([$1]), [$2],
      [with_$1=yes],
      [AS_IF([test "x$with_$1" = xyes], [AC_MSG_ERROR([--with-$1: no $2])])
       with_$1=no])])
  COTERIE_FOUND([$1], [$3])])

dnl COTERIE_FOUND(name, what for): the define, the conditional, the summary
AC_DEFUN([COTERIE_FOUND], [
  AS_IF([test "x$with_$1" = xyes],
    [AC_DEFINE([HAVE_]m4_toupper([$1]), [1], [$2])])
  AM_CONDITIONAL([HAVE_]m4_toupper([$1]), [test "x$with_$1" = xyes])
  AS_VAR_APPEND([coterie_summary], ["; $1: $with_$1"])])

dnl GLPK ships no pkg-config file.
AC_DEFUN([COTERIE_WITH_GLPK], [
  AC_ARG_WITH([glpk], [AS_HELP_STRING([--with-glpk=yes|no|auto],
    [libcoterie-place and coterie place])], [], [with_glpk=auto])
  AS_IF([test "x$with_glpk" != xno], [
    coterie_libs=$LIBS
    AC_CHECK_HEADER([glpk.h],
      [AC_CHECK_LIB([glpk], [glp_intopt], [coterie_glpk=yes],
                    [coterie_glpk=no])], [coterie_glpk=no])
    LIBS=$coterie_libs
    AS_IF([test "x$with_glpk$coterie_glpk" = xyesno],
      [AC_MSG_ERROR([--with-glpk: no glpk.h or libglpk])])
    with_glpk=$coterie_glpk])
  AS_IF([test "x$with_glpk" = xyes], [GLPK_LIBS=-lglpk], [GLPK_LIBS=])
  AC_SUBST([GLPK_LIBS])
  COTERIE_FOUND([glpk], [placement by integer programming])])

dnl Nor does METIS.
AC_DEFUN([COTERIE_WITH_METIS], [
  AC_ARG_WITH([metis], [AS_HELP_STRING([--with-metis=yes|no|auto],
    [METIS beside our placements in bench/placement])], [], [with_metis=auto])
  AS_IF([test "x$with_metis" != xno], [
    coterie_libs=$LIBS
    AC_CHECK_HEADER([metis.h],
      [AC_CHECK_LIB([metis], [METIS_PartGraphKway], [coterie_metis=yes],
                    [coterie_metis=no])], [coterie_metis=no])
    LIBS=$coterie_libs
    AS_IF([test "x$with_metis$coterie_metis" = xyesno],
      [AC_MSG_ERROR([--with-metis: no metis.h or libmetis])])
    with_metis=$coterie_metis])
  AS_IF([test "x$with_metis" = xyes], [METIS_LIBS=-lmetis], [METIS_LIBS=])
  AC_SUBST([METIS_LIBS])
  COTERIE_FOUND([metis], [METIS in bench/placement])])

dnl MPI by pkg-config under the names its makers use.
AC_DEFUN([COTERIE_WITH_MPI], [
  AC_ARG_WITH([mpi], [AS_HELP_STRING([--with-mpi=yes|no|auto],
    [the MPI transport, libcoterie-mpi])], [], [with_mpi=auto])
  AS_IF([test "x$with_mpi" != xno],
    [PKG_CHECK_MODULES([MPI], [ompi-c], [coterie_mpi=yes],
      [PKG_CHECK_MODULES([MPI], [mpich], [coterie_mpi=yes],
                         [coterie_mpi=no])])
     AS_IF([test "x$with_mpi$coterie_mpi" = xyesno],
       [AC_MSG_ERROR([--with-mpi: pkg-config knows no ompi-c or mpich])])
     with_mpi=$coterie_mpi])
  COTERIE_FOUND([mpi], [ranks as MPI processes])])

dnl CUDA: a compiler, its static runtime (so that a machine without a driver
dnl loads what is built), and one architecture or more. A name that ends in a
dnl letter runs on that architecture only; the others also on later ones.
AC_DEFUN([COTERIE_WITH_CUDA], [
  AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=DIR|yes|no|auto],
    [ranks on NVIDIA GPUs])], [], [with_cuda=auto])
  AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch="80 90a"],
    [architectures to build kernels for])], [], [with_cuda_arch="80 90a"])
  AS_CASE([$with_cuda], [no|yes|auto], [coterie_cuda=/usr/local/cuda],
          [coterie_cuda=$with_cuda; with_cuda=yes])
  AC_ARG_VAR([NVCC], [CUDA compiler])
  AS_IF([test "x$with_cuda" != xno], [
    AC_PATH_PROG([NVCC], [nvcc], [], [$coterie_cuda/bin$PATH_SEPARATOR$PATH])
    AS_IF([test -n "$NVCC"],
      [coterie_cuda=$(cd "$(dirname "$NVCC")/.." && pwd)])
    COTERIE_CUDA_LINKS([$with_cuda_arch])
    AS_IF([test "x$with_cuda$coterie_links" = xyesno],
      [AC_MSG_ERROR([--with-cuda: no nvcc that builds for $with_cuda_arch; dnl
see config.log])])
    with_cuda=$coterie_links])
  COTERIE_FOUND([cuda], [ranks on NVIDIA GPUs])])

dnl COTERIE_CUDA_LINKS(architectures): sets coterie_links, NVCC_ARCH, CUDA_LIBS
AC_DEFUN([COTERIE_CUDA_LINKS], [
  NVCC_ARCH=
  for arch in $1; do
    AS_CASE([$arch],
      [*[[a-z]]], [coterie_code="sm_$arch"],
      [coterie_code="[[sm_$arch,compute_$arch]]"])
    NVCC_ARCH="$NVCC_ARCH -gencode arch=compute_$arch,code=$coterie_code"
  done
  CUDA_CFLAGS="-isystem $coterie_cuda/include"
  CUDA_LIBS="-L$coterie_cuda/lib64 -lcudart_static -ldl -lrt -lpthread"
  AC_MSG_CHECKING([whether CUDA programs build for $1])
  coterie_links=no
  cat >conftest.cu <<_ACEOF
extern "C" __global__ void kernel(int *x) { *x = 1; }
int main(void) { int *x = 0; kernel<<<1, 1>>>(x); return 0; }
_ACEOF
  AS_IF([test -n "$NVCC" &&
         "$NVCC" $NVCC_ARCH -o conftest$EXEEXT conftest.cu \
           >&AS_MESSAGE_LOG_FD 2>&1], [coterie_links=yes])
  rm -f conftest.cu conftest$EXEEXT
  AS_IF([test "x$coterie_links" != xyes], [CUDA_CFLAGS= CUDA_LIBS=])
  AC_MSG_RESULT([$coterie_links])
  AC_SUBST([NVCC_ARCH])
  AC_SUBST([CUDA_CFLAGS])
  AC_SUBST([CUDA_LIBS])])

dnl NCCL: its headers when building, its library when running (it is looked up
dnl then, so that what is built loads where there is none). With CUDA only.
AC_DEFUN([COTERIE_WITH_NCCL], [
  AC_ARG_WITH([nccl], [AS_HELP_STRING([--with-nccl=DIR|yes|no|auto],
    [ranks on NVIDIA GPUs that NCCL connects])], [], [with_nccl=auto])
  AS_CASE([$with_nccl],
    [no|yes|auto], [NCCL_CFLAGS= coterie_nccl_dir=$coterie_cuda],
    [NCCL_CFLAGS="-isystem $with_nccl/include"
     coterie_nccl_dir=$with_nccl with_nccl=yes])
  AS_IF([test "x$with_nccl" = xyes && test "x$with_cuda" != xyes],
    [AC_MSG_ERROR([--with-nccl: needs CUDA])])
  AS_IF([test "x$with_cuda" != xyes], [with_nccl=no])
  AS_IF([test "x$with_nccl" != xno], [
    coterie_cppflags=$CPPFLAGS
    CPPFLAGS="$NCCL_CFLAGS $CUDA_CFLAGS $CPPFLAGS"
    AC_MSG_CHECKING([for NCCL's headers])
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <nccl.h>
#if NCCL_VERSION_CODE < NCCL_VERSION(2, 28, 0)
#error too old
#endif]], [[ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
return config.blocking;]])], [coterie_nccl=yes], [coterie_nccl=no])
    AC_MSG_RESULT([$coterie_nccl])
    CPPFLAGS=$coterie_cppflags
    AS_IF([test "x$with_nccl$coterie_nccl" = xyesno],
      [AC_MSG_ERROR([--with-nccl: no nccl.h of 2.28 or later])])
    with_nccl=$coterie_nccl])
  AS_IF([test "x$with_nccl" != xyes], [NCCL_CFLAGS=],
    [AC_DEFINE_UNQUOTED([NCCL_LIBRARY],
      ["$coterie_nccl_dir/lib/libnccl.so.2"],
      [tried if the system finds no NCCL])])
  AC_SUBST([NCCL_CFLAGS])
  COTERIE_FOUND([nccl], [GPUs connected by NCCL])])

dnl NVTX: headers alone, beside CUDA's; a profiler brings what they call.
AC_DEFUN([COTERIE_WITH_NVTX], [
  AC_ARG_WITH([nvtx], [AS_HELP_STRING([--with-nvtx=yes|no|auto],
    [ranges that profilers show])], [], [with_nvtx=auto])
  AS_IF([test "x$with_nvtx" = xyes && test "x$with_cuda" != xyes],
    [AC_MSG_ERROR([--with-nvtx: needs CUDA])])
  AS_IF([test "x$with_cuda" != xyes], [with_nvtx=no])
  AS_IF([test "x$with_nvtx" != xno], [
    coterie_cppflags=$CPPFLAGS
    CPPFLAGS="$CUDA_CFLAGS $CPPFLAGS"
    AC_CHECK_HEADER([nvtx3/nvToolsExt.h], [coterie_nvtx=yes],
                    [coterie_nvtx=no])
    CPPFLAGS=$coterie_cppflags
    AS_IF([test "x$with_nvtx$coterie_nvtx" = xyesno],
      [AC_MSG_ERROR([--with-nvtx: no nvtx3/nvToolsExt.h])])
    with_nvtx=$coterie_nvtx])
  COTERIE_FOUND([nvtx], [ranges that profilers show])])

AC_DEFUN([COTERIE_WARNINGS], [
  AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror],
    [treat warnings as errors])], [], [enable_werror=no])
  COTERIE_CFLAGS="-std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes"
  COTERIE_CFLAGS="$COTERIE_CFLAGS -Wmissing-prototypes -fvisibility=hidden"
  AS_IF([test "x$enable_werror" = xyes],
    [COTERIE_CFLAGS="$COTERIE_CFLAGS -Werror"])
  AC_SUBST([COTERIE_CFLAGS])
  coterie_cflags=$CFLAGS
  CFLAGS="$CFLAGS -Werror -fno-var-tracking"
  AC_MSG_CHECKING([whether $CC takes -fno-var-tracking])
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
    [TILES_CFLAGS=-fno-var-tracking
     AC_MSG_RESULT([yes])], [AC_MSG_RESULT([no])])
  CFLAGS=$coterie_cflags
  AC_SUBST([TILES_CFLAGS])])

AC_DEFUN([COTERIE_SANITIZERS], [
  AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers=address|thread],
      [build with ASan and UBSan, or with TSan])],
    [], [enable_sanitizers=no])
  AS_CASE([$enable_sanitizers],
    [no], [SANITIZER_FLAGS=],
    [address], [SANITIZER_FLAGS="-fsanitize=address,undefined dnl
-fno-sanitize-recover=undefined -fno-omit-frame-pointer"],
    [thread], [SANITIZER_FLAGS="-fsanitize=thread"],
    [AC_MSG_ERROR([--enable-sanitizers takes address or thread])])
  AS_IF([test "x$enable_sanitizers" != xno],
    [AC_DEFINE([COTERIE_SANITIZED], [1], [built with a sanitizer])])
  AC_SUBST([SANITIZER_FLAGS])
  AC_SUBST([enable_sanitizers])
  AS_VAR_APPEND([coterie_summary], ["; sanitizers: $enable_sanitizers"])])

dnl COTERIE_WITH_PEER(name, libraries, what for): where something lies that
dnl only benchmarks compare with; nothing is looked for unasked.
AC_DEFUN([COTERIE_WITH_PEER], [
  AC_ARG_WITH([$1], [AS_HELP_STRING([--with-$1=PREFIX], [$3])],
              [], [with_$1=no])
  AS_IF([test "x$with_$1" != xno],
    [AS_IF([test -d "$with_$1/include" && test -d "$with_$1/lib"], [],
       [AC_MSG_ERROR([--with-$1: no include and lib in $with_$1])])
     AC_SUBST(m4_toupper([$1])[_CFLAGS], ["-isystem $with_$1/include"])
     AC_SUBST(m4_toupper([$1])[_LIBS],
              ["-L$with_$1/lib -Wl,-rpath,$with_$1/lib $2"])])
  AM_CONDITIONAL([HAVE_]m4_toupper([$1]), [test "x$with_$1" != xno])])
