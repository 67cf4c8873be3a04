# Tests that run under mpirun, and others that are no GoogleTest program.

# As root (containers, CI) and with more ranks than cores Open MPI wants to be told; ranks must not be tied to one core
# each, because they have threads.
set(MATVLM_MPI_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none)

# A test that runs `COMMAND` on RANKS ranks.
function(matvlm_mpi_test name ranks)
  add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${ARGN}
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${MATVLM_MPI_ENVIRONMENT}" TIMEOUT 300 RUN_SERIAL ON)
endfunction()

add_executable(comm_mpi_main ${CMAKE_CURRENT_SOURCE_DIR}/dist/comm_mpi_main.cpp)
target_link_libraries(comm_mpi_main PRIVATE matvlm_test_support)
add_test(NAME dist.comm_mpi_1 COMMAND comm_mpi_main check)  # without mpirun
set_tests_properties(dist.comm_mpi_1 PROPERTIES TIMEOUT 300)
matvlm_mpi_test(dist.comm_mpi_2 2 $<TARGET_FILE:comm_mpi_main> check)
matvlm_mpi_test(dist.comm_mpi_3 3 $<TARGET_FILE:comm_mpi_main> check)
matvlm_mpi_test(dist.comm_staged_2 2 $<TARGET_FILE:comm_mpi_main> check . staged)
add_test(NAME dist.kill_rank
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/dist/kill_rank.sh ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:comm_mpi_main>)
set_tests_properties(dist.kill_rank PROPERTIES ENVIRONMENT "${MATVLM_MPI_ENVIRONMENT}" TIMEOUT 300 RUN_SERIAL ON)

# N ranks equal one: whole updates over MPI.
add_executable(ranks_mpi_main ${CMAKE_CURRENT_SOURCE_DIR}/dist/ranks_mpi_main.cpp)
target_link_libraries(ranks_mpi_main PRIVATE matvlm_test_support)
matvlm_mpi_test(dist.ranks_mpi_2 2 $<TARGET_FILE:ranks_mpi_main>)
matvlm_mpi_test(dist.ranks_mpi_3 3 $<TARGET_FILE:ranks_mpi_main>)
add_executable(ranks_program_main ${CMAKE_CURRENT_SOURCE_DIR}/dist/ranks_program_main.cpp)
target_link_libraries(ranks_program_main PRIVATE matvlm_test_support)
add_dependencies(ranks_program_main matvlm)
add_test(NAME dist.ranks_program_2 COMMAND ranks_program_main cpu 2)
set_tests_properties(dist.ranks_program_2 PROPERTIES TIMEOUT 300 RUN_SERIAL ON ENVIRONMENT OMP_WAIT_POLICY=passive)

# The end-to-end tests run the built program, alone and under mpirun.
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/support/program.cpp TARGET_DIRECTORY matvlm_test_support
  PROPERTIES COMPILE_DEFINITIONS "MATVLM_PROGRAM=\"$<TARGET_FILE:matvlm>\";MATVLM_MPIEXEC=\"${MPIEXEC_EXECUTABLE}\"")
file(GLOB e2e_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_*.cpp)
foreach(file ${e2e_tests})
  get_filename_component(stem ${file} NAME_WE)
  string(REPLACE "test_" "test_e2e_" target ${stem})
  add_dependencies(${target} matvlm)
endforeach()
set_tests_properties(e2e.resume PROPERTIES TIMEOUT 1800)  # of which it needs a minute, but many more with sanitizers
# These start one program of one thread after the other, so they may run side by side.
set_tests_properties(e2e.bad_inputs e2e.export e2e.help PROPERTIES RUN_SERIAL OFF)

# Benchmarks: tests/bench/NAME.cpp (or NAME_cuda.cpp, which sees CUDA's headers) is the program bench_NAME; kernels
# they share or compare are in *.cu. Not tests, they are run by hand on a GPU; of the way from the disk two also on a CPU.
# *_variants_*.cu compile some kernels in dozens of ways, which takes minutes: programs that include a *_variants.h are
# built only where they are asked for by name.
set(benches ${CMAKE_CURRENT_SOURCE_DIR}/bench/import.cpp ${CMAKE_CURRENT_SOURCE_DIR}/bench/loader.cpp)
set(bench_libraries matvlm_test_support)
if(MATVLM_HAVE_CUDA)
  file(GLOB bench_kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/bench/*.cu)
  set(bench_variants ${bench_kernels})
  list(FILTER bench_variants INCLUDE REGEX "_variants_[a-z]+\\.cu$")
  list(FILTER bench_kernels EXCLUDE REGEX "_variants_[a-z]+\\.cu$")
  add_library(matvlm_bench_support STATIC ${bench_kernels})  # what they compare with
  target_link_libraries(matvlm_bench_support PUBLIC matvlm_test_support)
  add_library(matvlm_bench_variants STATIC EXCLUDE_FROM_ALL ${bench_variants})
  target_link_libraries(matvlm_bench_variants PUBLIC matvlm_test_support)
  list(APPEND bench_libraries matvlm_bench_support)
  file(GLOB benches CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/bench/*.cpp)
endif()
foreach(file ${benches})
  get_filename_component(name ${file} NAME_WE)
  string(REGEX REPLACE "_cuda$" "" name ${name})
  add_executable(bench_${name} ${file})
  target_link_libraries(bench_${name} PRIVATE ${bench_libraries})
  file(STRINGS ${file} has_variants REGEX "_variants\\.h")
  if(has_variants)
    target_link_libraries(bench_${name} PRIVATE matvlm_bench_variants)
    set_target_properties(bench_${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endforeach()

# What tests/sanitizer/run.sh holds racecheck against.
if(MATVLM_HAVE_CUDA)
  add_executable(sanitizer_control ${CMAKE_CURRENT_SOURCE_DIR}/sanitizer/control.cu)
  target_link_libraries(sanitizer_control PRIVATE matvlm_core)
endif()

# Against Hugging Face tokenizers on random texts, where Python has that package; skipped by name where not.
add_executable(tokenizer_main ${CMAKE_CURRENT_SOURCE_DIR}/data/tokenizer_main.cpp)
target_link_libraries(tokenizer_main PRIVATE matvlm_data)
find_package(Python3 QUIET COMPONENTS Interpreter)
set(MATVLM_PYTHON "${Python3_EXECUTABLE}" CACHE STRING "Python whose packages some tests compare with")
if(MATVLM_PYTHON)
  add_test(NAME data.tokenizer_peer COMMAND ${MATVLM_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/data/tokenizer_peer.py
    $<TARGET_FILE:tokenizer_main> ${CMAKE_CURRENT_SOURCE_DIR}/golden/tokenizer --texts 20000)
  set_tests_properties(data.tokenizer_peer PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
  if(MATVLM_HAVE_PCRE2)
    add_test(NAME data.tokenizer_peer_pcre2 COMMAND ${MATVLM_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/data/tokenizer_peer.py
      $<TARGET_FILE:tokenizer_main> ${CMAKE_CURRENT_SOURCE_DIR}/golden/tokenizer/pcre2 --texts 20000)
    set_tests_properties(data.tokenizer_peer_pcre2 PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
  endif()
  # The benchmarks' scripts, with small sizes on the CPU: that they work, not how fast anything is.
  set(bench ${CMAKE_CURRENT_SOURCE_DIR}/bench)
  add_test(NAME bench.curves COMMAND ${MATVLM_PYTHON} ${bench}/curves --program $<TARGET_FILE:matvlm> --device cpu --tiny
    --updates 10 --samples 32 --out ${CMAKE_CURRENT_BINARY_DIR}/curves)
  add_test(NAME bench.sweep_step COMMAND ${MATVLM_PYTHON} ${bench}/sweep_step.py --program $<TARGET_FILE:matvlm>
    --config ${bench}/sweep-test.yaml --out ${CMAKE_CURRENT_BINARY_DIR}/sweep --lengths 16 32 --tokens 32
    --shares 0 0.25 1 --updates 1)
  add_test(NAME bench.peer_step COMMAND ${MATVLM_PYTHON} ${bench}/peer_step.py --tiny --batch 2 --length 24 --updates 1)
  set_tests_properties(bench.curves bench.sweep_step bench.peer_step PROPERTIES TIMEOUT 600
    ENVIRONMENT OMP_WAIT_POLICY=passive SKIP_REGULAR_EXPRESSION "no module torch")
endif()
