# heddle_library(NAME [TORCH] [QUICK] SOURCES … [HEADERS …] [DEPENDS …] [PRIVATE_DEPENDS …]): the library heddle_NAME with alias
# heddle::NAME. TORCH: links LibTorch, uses its precompiled header, compiles four sources as one (heddle_compile_together), and is left out without
# HEDDLE_WITH_TORCH. QUICK: a HEDDLE_FAST_BUILD with tests does not optimise it.
function(heddle_library name)
  cmake_parse_arguments(ARG "TORCH;QUICK" "" "SOURCES;HEADERS;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  if(ARG_TORCH AND NOT HEDDLE_WITH_TORCH)
    return()
  endif()
  add_library(heddle_${name} STATIC ${ARG_SOURCES} ${ARG_HEADERS})
  add_library(heddle::${name} ALIAS heddle_${name})
  target_link_libraries(heddle_${name} PUBLIC heddle_options ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
  if(ARG_TORCH)
    heddle_use_torch(heddle_${name})
    heddle_compile_together(heddle_${name})
  elseif(ARG_QUICK AND HEDDLE_BUILD_TESTS)
    heddle_speed_up(heddle_${name} TEST)
  else()
    heddle_speed_up(heddle_${name})
  endif()
endfunction()

# heddle_executable(NAME [TORCH] SOURCES … DEPENDS …): installed to bin/.
function(heddle_executable name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;DEPENDS" ${ARGN})
  if(ARG_TORCH AND NOT HEDDLE_WITH_TORCH)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE heddle_options ${ARG_DEPENDS})
  if(ARG_TORCH)
    heddle_use_torch(${name})
  elseif(HEDDLE_BUILD_TESTS)
    heddle_speed_up(${name} TEST)
  else()
    heddle_speed_up(${name})
  endif()
  if(HEDDLE_BUILD_TESTS)
    heddle_compile_quickly(${name})  # main(), and what it calls once: compiled more often than run
  endif()
  install(TARGETS ${name})
endfunction()

# HEDDLE_SOURCE_DIR and HEDDLE_BINARY_DIR for those sources that name them (or a header that does): the others compile to the
# same object in every folder, and so come from the compiler's cache in a new clone. With LibTorch all of the target's sources get them: alone each
# would need its header again.
function(heddle_define_folders target)
  set(folders HEDDLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" HEDDLE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES" ${ARGN})
  if(ARG_TORCH)
    target_compile_definitions(${target} PRIVATE ${folders})
    return()
  endif()
  foreach(source ${ARG_SOURCES})
    file(STRINGS ${source} uses REGEX "HEDDLE_(SOURCE|BINARY)_DIR|model/(test_data|reference_case|case_folders)[.]h" LIMIT_COUNT 1)
    if(uses)
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_DEFINITIONS ${folders})
    endif()
  endforeach()
endfunction()

# heddle_test(NAME [TORCH] LABEL unit|integration|simulation|fuzz|bench|tidy SOURCES … DEPENDS … [TIMEOUT s]): a GoogleTest binary,
# each of its tests in CTest under the label (heddle_discover_batches says where several are one). Those of unit and integration tests are
# compiled quickly. The presets dev, tsan and coverage compile sources one by one, so that each names what it needs.
function(heddle_test name)
  cmake_parse_arguments(ARG "TORCH" "LABEL;TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(ARG_TORCH AND NOT HEDDLE_WITH_TORCH)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(HEDDLE_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")  # what a sanitizer may cost
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE heddle_options ${ARG_DEPENDS} GTest::gmock_main)
  if(ARG_TORCH)
    heddle_define_folders(${name} TORCH)
  else()
    heddle_define_folders(${name} SOURCES ${ARG_SOURCES})
  endif()
  if(HEDDLE_SANITIZE)
    target_compile_definitions(${name} PRIVATE HEDDLE_SANITIZED)  # for the few that measure memory
  endif()
  if(ARG_TORCH)
    heddle_use_torch(${name})
  elseif(HEDDLE_FAST_BUILD AND ARG_LABEL MATCHES "unit|integration|tidy")
    heddle_speed_up(${name} TEST)
  endif()
  if(ARG_LABEL MATCHES "unit|integration")
    heddle_compile_quickly(${name})
    heddle_compile_together(${name})
  endif()
  if(ARG_TORCH AND ARG_LABEL STREQUAL "unit")
    heddle_discover_batches(${name} ${ARG_LABEL} ${ARG_TIMEOUT})
  else()
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 300
      PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()

# heddle_compile_quickly(TARGET): what costs more to compile than to run. With -O1 a sixth to a third less, without line numbers (the preset dev has
# them) a tenth. In optimised builds; a HEDDLE_FAST_BUILD has heddle_speed_up.
function(heddle_compile_quickly target)
  if(HEDDLE_FAST_BUILD OR NOT CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
    return()
  endif()
  # From 13 on g++ does not take LibTorch's precompiled header, which has -O2, with another level.
  get_target_property(header ${target} PRECOMPILE_HEADERS_REUSE_FROM)
  if(header AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    target_compile_options(${target} PRIVATE -g0)
  else()
    target_compile_options(${target} PRIVATE -O1 -g0)
  endif()
endfunction()

# heddle_compile_together(TARGET): four sources are one in optimised builds, so two of them may not have nameless things of the same name; else the
# target is named in heddle_apart (HeddleDependencies.cmake). Of tests that is a third less; what a source needs of LibTorch's header takes 3 s even
# precompiled.
function(heddle_compile_together target)
  if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" AND NOT HEDDLE_FAST_BUILD AND NOT target IN_LIST heddle_apart)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 4)
  endif()
endfunction()

# heddle_discover_batches(NAME LABEL TIMEOUT): as gtest_discover_tests, but several tests share a process (DiscoverBatches.cmake): loading
# LibTorch takes a third of a second of the processor, more than most of its tests.
function(heddle_discover_batches name label timeout)
  set(list ${CMAKE_CURRENT_BINARY_DIR}/${name}_batches.cmake)
  file(GENERATE OUTPUT ${list} CONTENT "set(HEDDLE_NAME ${name})
set(HEDDLE_BINARY \"$<TARGET_FILE:${name}>\")
set(HEDDLE_LISTING \"${CMAKE_CURRENT_BINARY_DIR}/${name}_tests.txt\")
set(HEDDLE_LABEL ${label})
set(HEDDLE_TIMEOUT ${timeout})
include(\"${CMAKE_SOURCE_DIR}/common/cmake/DiscoverBatches.cmake\")
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${list})
endfunction()

# heddle_fuzz_target(NAME SOURCE DEPENDS …): with HEDDLE_FUZZ a libFuzzer binary, whose committed seeds are run once as a test;
# without, the same entry point run over its seeds and their deterministic mutations, as a test. Label fuzz.
function(heddle_fuzz_target name source)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  set(corpus ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
  if(HEDDLE_FUZZ)
    add_executable(${name} ${source})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_test(NAME fuzz.${name} COMMAND ${name} -runs=0 ${corpus})
  else()
    add_executable(${name} ${source} $<TARGET_OBJECTS:heddle_fuzz_replay>)
    add_test(NAME fuzz.${name} COMMAND ${name} ${corpus})
  endif()
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 300)
  target_link_libraries(${name} PRIVATE heddle_options ${ARG_DEPENDS})
  heddle_speed_up(${name} TEST)
  add_dependencies(fuzz_targets ${name})
endfunction()
