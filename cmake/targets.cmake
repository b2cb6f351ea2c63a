# top_simulator: schedules and the prediction of their time; used by the partitioners and by the
# virtual device.
add_library(top_simulator STATIC runtime/schedule.cc runtime/simulator.cc)
target_include_directories(top_simulator PUBLIC ${CMAKE_SOURCE_DIR})

add_library(top_passes STATIC ${TOP_PASSES_SOURCES})
target_include_directories(top_passes PUBLIC ${CMAKE_SOURCE_DIR})
target_link_libraries(top_passes PUBLIC top_simulator)

list(FILTER TOP_RUNTIME_SOURCES EXCLUDE REGEX "(schedule|simulator)\\.cc$")
add_library(top_runtime STATIC ${TOP_RUNTIME_SOURCES})
target_include_directories(top_runtime PUBLIC ${CMAKE_SOURCE_DIR} ${TVM_FFI_DIR}/include)
target_link_libraries(top_runtime PUBLIC top_simulator Threads::Threads ${CMAKE_DL_LIBS})

# libtvm_ffi and libdnnl are loaded by top_tvm/runtime/native.py before they are needed: no RPATH.
set(CMAKE_SKIP_RPATH ON)
add_custom_target(top_tvm_install)
if(NB_DIR)
  find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(nanobind CONFIG REQUIRED PATHS ${NB_DIR} NO_DEFAULT_PATH)
  file(GLOB TOP_BINDINGS CONFIGURE_DEPENDS runtime/*bindings.cc runtime/serving/*bindings.cc passes/*bindings.cc)
  nanobind_add_module(_native NOMINSIZE NB_STATIC ${TOP_BINDINGS})
  target_link_libraries(_native PRIVATE top_passes top_runtime)
  set_target_properties(_native PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${TOP_TVM_OUTPUT_DIR})
  add_dependencies(top_tvm_install _native)
endif()

# Library kernels live in a module of their own, loaded when libdnnl is present.
if(ONEDNN_PREFIX)
  file(GLOB TOP_ONEDNN_SOURCES CONFIGURE_DEPENDS runtime/onednn/*.cc)
  add_library(top_onednn MODULE ${TOP_ONEDNN_SOURCES})
  target_include_directories(top_onednn PRIVATE ${CMAKE_SOURCE_DIR} ${TVM_FFI_DIR}/include ${ONEDNN_PREFIX}/include)
  target_link_libraries(top_onednn PRIVATE ${ONEDNN_PREFIX}/lib/libdnnl.so Threads::Threads ${CMAKE_DL_LIBS})
  set_target_properties(top_onednn PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${TOP_TVM_OUTPUT_DIR} PREFIX "" OUTPUT_NAME "_onednn")
  add_dependencies(top_tvm_install top_onednn)
endif()

if(TOP_TVM_TESTS)
  enable_testing()
  add_subdirectory(tests/cpp)
endif()
