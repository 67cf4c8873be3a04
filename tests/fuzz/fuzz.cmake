# Fuzz targets (MATVLM_FUZZ=ON): tests/fuzz/fuzz_NAME.cpp with seeds in tests/fuzz/corpus/NAME. With clang they are
# libFuzzer programs; elsewhere standalone_main.cpp mutates the seeds. tests/fuzz/run runs them all. As tests they only
# run over their seeds and a few thousand mutations.
file(GLOB fuzz_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_*.cpp)
foreach(file ${fuzz_files})
  get_filename_component(target ${file} NAME_WE)
  string(REPLACE "fuzz_" "" name ${target})
  add_executable(${target} ${file} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz.cpp)
  target_link_libraries(${target} PRIVATE matvlm_data)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/standalone_main.cpp)
  endif()
  if(name STREQUAL "config")  # three files of layers/; the rest of it needs all ops
    target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/layers/config.cpp ${CMAKE_SOURCE_DIR}/layers/config_text.cpp
      ${CMAKE_SOURCE_DIR}/layers/tensors.cpp)
  endif()
  add_test(NAME fuzz.${name} COMMAND ${target} -runs=2000 ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  set_tests_properties(fuzz.${name} PROPERTIES TIMEOUT 600
    ENVIRONMENT LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/fuzz/leaks.txt:print_suppressions=0)
endforeach()
