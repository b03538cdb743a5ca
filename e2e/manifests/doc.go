// Package manifests tests what is in examples/docker and examples/kubernetes by the
// code that those tools read such files with. It is a module of its own, so that
// none of that is a dependency of the product.
package manifests
