# Installs a build into a fresh folder, builds the consumer against it, and runs it and the installed command.
# The command finds its modules (importers/data/module.h) in the installed tree and nowhere else.
# cmake -DBUILD=... -DSOURCE=... -DWORK=... -DMODELS=... -P check.cmake
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}: ${status}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${WORK}/prefix)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
if(NOT EXISTS ${WORK}/prefix/bin/graft)
  return()
endif()
run(${WORK}/prefix/bin/graft --help)

# The command must end with this exit code and text.
function(expect status text)
  execute_process(COMMAND ${WORK}/prefix/bin/graft evaluate ${ARGN} WORKING_DIRECTORY ${WORK}/modules
    RESULT_VARIABLE got OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT got EQUAL status OR NOT output MATCHES "${text}")
    message(FATAL_ERROR "graft evaluate ${ARGN}: ${got}, wanted ${status} and \"${text}\"\n${output}")
  endif()
endfunction()

file(WRITE ${WORK}/table.csv "a,b,c,d,e,f,g,h,i,j,k,l,y\n1,2,3,4,5,6,7,8,9,10,11,12,0\n1,2,3,4,5,6,7,8,9,10,11,12,3\n")
set(table ${MODELS}/small_mlp.onnx --data ${WORK}/table.csv)
foreach(class a b c d)
  file(WRITE ${WORK}/images/${class}/broken.png "no image")
endforeach()
set(images ${MODELS}/small_cnn.onnx --size 8x8 --data ${WORK}/images)

file(MAKE_DIRECTORY ${WORK}/modules)
expect(0 "" ${table})
expect(4 "broken.png" ${images})
# Now they lie in the working directory.
file(GLOB modules ${WORK}/prefix/lib/graft/*.so)
file(COPY ${modules} DESTINATION ${WORK}/modules)
file(REMOVE ${modules})
expect(1 "cannot load graft_tables.so" ${table})
expect(1 "cannot load graft_images.so" ${images})
