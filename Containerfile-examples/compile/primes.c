#include <stdio.h>
#include <stdlib.h>

/* Prints the primes up to the number given. */
int main(int argc, char **argv)
{
    int last = argc > 1 ? atoi(argv[1]) : 100;
    for (int number = 2; number <= last; number++) {
        int divisor = 2;
        while (divisor * divisor <= number && number % divisor != 0)
            divisor++;
        if (divisor * divisor > number)
            printf("%d\n", number);
    }
    return 0;
}
