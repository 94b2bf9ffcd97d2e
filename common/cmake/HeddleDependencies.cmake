# Every dependency, from the distribution's packages. `./run setup` installs them.
find_package(Threads REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json url)
find_package(Protobuf 3.21 REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(SQLiteCpp REQUIRED)
find_package(spdlog REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)

if(HEDDLE_BUILD_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
  pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)  # what our reader of its models is compared with
  find_path(HEDDLE_RAPIDCHECK_INCLUDE rapidcheck.h REQUIRED)
  find_library(HEDDLE_RAPIDCHECK_LIBRARY rapidcheck REQUIRED)
  add_library(heddle_rapidcheck INTERFACE)
  target_include_directories(heddle_rapidcheck SYSTEM INTERFACE ${HEDDLE_RAPIDCHECK_INCLUDE})
  target_link_libraries(heddle_rapidcheck INTERFACE ${HEDDLE_RAPIDCHECK_LIBRARY})
  find_package(mimalloc REQUIRED)  # for what makes many worlds; no program that we ship has it
endif()
if(HEDDLE_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()

# heddle_precompiled(NAME HEADERS header… [LIBRARIES target…] [OPTIONS option…]): a precompiled header for many targets, which take it by
# REUSE_FROM NAME and then link what the libraries need by themselves.
function(heddle_precompiled name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;LIBRARIES;OPTIONS")
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cc CONTENT "int heddle_precompiled_anchor = 0;\n")
  add_library(${name} STATIC ${CMAKE_BINARY_DIR}/precompiled.cc)
  target_link_libraries(${name} PUBLIC heddle_options PRIVATE ${arg_LIBRARIES})
  target_compile_options(${name} PRIVATE ${arg_OPTIONS})
  target_precompile_headers(${name} PRIVATE ${arg_HEADERS})
endfunction()

if(HEDDLE_WITH_TORCH)
  # The distribution's TorchConfig asks for nothing we set; a LibTorch elsewhere is given by CMAKE_PREFIX_PATH.
  find_package(Torch REQUIRED)
  add_library(heddle_torch INTERFACE)
  target_link_libraries(heddle_torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(heddle_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  separate_arguments(HEDDLE_TORCH_FLAGS UNIX_COMMAND "${TORCH_CXX_FLAGS}")
  target_compile_options(heddle_torch INTERFACE -Wno-pedantic -Wno-unused-parameter)
  target_compile_options(heddle_options INTERFACE ${HEDDLE_TORCH_FLAGS})  # the ABI of strings, which all of a program must share

  # Not torch/torch.h: GCC instantiates anew in each source what the header leaves pending, three times as much there.
  heddle_precompiled(heddle_torch_pch LIBRARIES heddle_torch
    HEADERS <torch/autograd.h> <torch/nn/module.h> <torch/nn/pimpl.h> <torch/types.h> <torch/utils.h> <map> <string> <vector>)
endif()

function(heddle_use_torch target)
  target_link_libraries(${target} PUBLIC heddle_torch)
  target_precompile_headers(${target} REUSE_FROM heddle_torch_pch)
endfunction()

# GCC's optimised builds read the standard library from a precompiled header, and of tests GoogleTest as well: a second less for each of four
# hundred sources. (Asio's and Beast's take as long to load as they take to read.) The presets tsan, dev and coverage do without, and clang-tidy, so
# that each source names what it needs.
set(heddle_standard_headers <algorithm> <array> <atomic> <chrono> <condition_variable> <filesystem> <fstream> <functional> <map> <memory> <mutex>
  <optional> <random> <set> <span> <sstream> <string> <thread> <unordered_map> <variant> <vector>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" AND NOT HEDDLE_FAST_BUILD)
  heddle_precompiled(heddle_standard_pch HEADERS ${heddle_standard_headers})
  if(HEDDLE_BUILD_TESTS)
    heddle_precompiled(heddle_standard_test_pch LIBRARIES GTest::gmock OPTIONS -O1 -g0  # as heddle_compile_quickly
      HEADERS ${heddle_standard_headers} <gmock/gmock.h> <gtest/gtest.h>)
  endif()
endif()

function(heddle_use_standard_header target header)
  target_precompile_headers(${target} REUSE_FROM ${header})
  # g++ 12 takes the buffer inside a string for too small; where the header is precompiled, it does not know that this is the system's affair.
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread)
  endif()
endfunction()

# HEDDLE_FAST_BUILD: half of the time of a build is spent on the headers of the standard library, Asio, Beast, Protobuf and
# GoogleTest, and on the same instantiations of their templates in many sources. Two precompiled headers hold them: one for what
# runs, one, with GoogleTest and without optimisation, for tests and for main(); and four sources are compiled as one.
if(HEDDLE_FAST_BUILD)
  set(heddle_common_headers ${heddle_standard_headers} <boost/asio.hpp> <boost/asio/ssl.hpp> <boost/beast.hpp> <boost/beast/ssl.hpp> <boost/json.hpp>
    <google/protobuf/message.h> <google/protobuf/map.h> <google/protobuf/repeated_field.h>)
  set(heddle_common_libraries Boost::headers OpenSSL::SSL protobuf::libprotobuf)
  set(heddle_fast_test_level -O0)
  if(HEDDLE_SANITIZE)
    set(heddle_fast_test_level)  # a sanitizer is slow enough
  endif()
  heddle_precompiled(heddle_fast_pch LIBRARIES ${heddle_common_libraries} OPTIONS -fpch-instantiate-templates HEADERS ${heddle_common_headers})
  if(HEDDLE_BUILD_TESTS)
    heddle_precompiled(heddle_fast_test_pch LIBRARIES ${heddle_common_libraries} GTest::gmock
      OPTIONS -fpch-instantiate-templates ${heddle_fast_test_level} HEADERS <gmock/gmock.h> <gtest/gtest.h> ${heddle_common_headers})
  endif()
endif()

# Whose sources are compiled one by one: they have nameless functions and constants of the same names.
set(heddle_apart heddle_aggregation heddle_light_crowd heddle_model_data heddle_model_files heddle_peft_files heddle_tokenizer
  heddle_bench_transport test_client test_compression test_peft_files test_recipe test_simulator)

# heddle_speed_up(TARGET [TEST]): TARGET takes part in HEDDLE_FAST_BUILD, and in others has the standard library's header.
function(heddle_speed_up target)
  if(NOT HEDDLE_FAST_BUILD)
    if(TARGET heddle_standard_pch)
      heddle_use_standard_header(${target} heddle_standard_pch)
    endif()
    return()
  endif()
  if(NOT target IN_LIST heddle_apart)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 4)
  endif()
  if("TEST" IN_LIST ARGN AND TARGET heddle_fast_test_pch)
    target_compile_options(${target} PRIVATE ${heddle_fast_test_level})
    target_link_libraries(${target} PRIVATE OpenSSL::SSL)  # for what the header brings along
    target_precompile_headers(${target} REUSE_FROM heddle_fast_test_pch)
  else()
    target_precompile_headers(${target} REUSE_FROM heddle_fast_pch)
  endif()
endfunction()
