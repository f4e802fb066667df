// A kubelet's own client of its container runtime, which lists all containers again and again: who
// calls a socket of ours where it is measured.
//
// Each argument is a runtime's endpoint. Each line of stdin names one of them, by its place, and how
// often to ask there. A line comes back: how many containers there are, and how many nanoseconds each
// call took.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	remote "k8s.io/cri-client/pkg"
)

const timeout = 2 * time.Minute

func main() {
	ctx := context.Background()
	var services []internalapi.RuntimeService
	for _, endpoint := range os.Args[1:] {
		service, err := remote.NewRemoteRuntimeServiceBuilder().
			WithEndpoint(endpoint).WithConnectionTimeout(timeout).Build(ctx)
		if err != nil {
			log.Fatal(err)
		}
		services = append(services, service)
	}
	for {
		var place, calls int
		_, err := fmt.Scanln(&place, &calls)
		if err == io.EOF {
			return
		}
		if err != nil || place < 0 || place >= len(services) {
			log.Fatalf("not a place and a number: %v", err)
		}
		took := make([]int64, calls)
		found := 0
		for call := range took {
			begun := time.Now()
			containers, err := services[place].ListContainers(ctx, nil)
			if err != nil {
				log.Fatal(err)
			}
			took[call] = time.Since(begun).Nanoseconds()
			found = len(containers)
		}
		fmt.Print(found)
		for _, each := range took {
			fmt.Print(" ", each)
		}
		fmt.Println()
	}
}
