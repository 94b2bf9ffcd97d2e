# Compiler settings of our own targets, on one INTERFACE target; nothing global but the output folder.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(HEDDLE_CCACHE ccache)
if(HEDDLE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers need these sloppiness flags to be cached (ccache manual, "Precompiled headers").
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${HEDDLE_CCACHE})
endif()

add_library(heddle_options INTERFACE)
target_compile_features(heddle_options INTERFACE cxx_std_20)
target_include_directories(heddle_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(heddle_options INTERFACE
  -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers
  # No contraction into fused multiply-add: sums must have the same bits on every machine (DESIGN 6).
  -ffp-contract=off
  -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=
  $<$<CXX_COMPILER_ID:GNU>:-fcoroutines -fpch-preprocess>
  $<$<BOOL:${HEDDLE_WERROR}>:-Werror>)
if(HEDDLE_TEST_HOOKS)
  target_compile_definitions(heddle_options INTERFACE HEDDLE_TEST_HOOKS)
endif()
if(HEDDLE_SANITIZE)
  target_compile_options(heddle_options INTERFACE -fsanitize=${HEDDLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(heddle_options INTERFACE -fsanitize=${HEDDLE_SANITIZE})
endif()
if(HEDDLE_COVERAGE)
  target_compile_options(heddle_options INTERFACE --coverage)
  target_link_options(heddle_options INTERFACE --coverage)
endif()
if(HEDDLE_FUZZ)
  target_compile_options(heddle_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Asio's fences are not modelled by g++'s ThreadSanitizer, which says so for each; what they order is under a mutex as well.
if(HEDDLE_SANITIZE STREQUAL "thread")
  target_compile_options(heddle_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
endif()
# Clang 14 takes a co_await whose result is void for one that is ignored.
target_compile_options(heddle_options INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:Clang>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,15>>:-Wno-unused-result>)
# Clang 14 makes code that does not assemble for coroutines under this one check of UBSan.
if(HEDDLE_SANITIZE)
  target_compile_options(heddle_options INTERFACE $<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=function>)
endif()
# A faster linker, where there is one: half of what linking 120 programs takes.
if(NOT HEDDLE_SANITIZE AND NOT HEDDLE_COVERAGE)
  find_program(HEDDLE_LLD NAMES ld.lld)
  find_program(HEDDLE_GOLD NAMES ld.gold)
  if(HEDDLE_LLD)
    target_link_options(heddle_options INTERFACE -fuse-ld=lld)
  elseif(HEDDLE_GOLD)
    target_link_options(heddle_options INTERFACE -fuse-ld=gold)
  endif()
endif()
